"""Training and testing a network, interruptible between steps and resumable bit for bit.

`Trainer.state` contains everything that the next step depends on: weights, optimizer, random number generators, the
position in the epoch and the running sums. The order and augmentation of the images are functions of seed and epoch
(`tssl_triton.data.epoch_order`), so they need no state.

If several processes train together (`tssl_triton.training.distributed`), each has a trainer and all call the same
methods: each learns from its share of every batch, and the results are those of the whole batches.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tssl_triton import losses
from tssl_triton._errors import UserError
from tssl_triton.data import DataSet, Prefetcher, epoch_order
from tssl_triton.data.base import Batch
from tssl_triton.encoding import target_pattern
from tssl_triton.functional import implementation
from tssl_triton.nn import LearnableConstants, SpikingConv2d, SpikingLinear, build_ann, build_network

from .checkpoint import CheckpointError
from .config import ConfigError, TrainConfig
from .distributed import Processes

#: Seconds between readings of the running sums: each waits for all work queued on the GPU.
READING_INTERVAL = 0.5


class TrainingError(UserError, RuntimeError):
    """Training cannot continue, because a number is no longer finite."""


@dataclass
class Totals:
    """Sums over the batches of an epoch, kept on the device.

    Args:
        loss: sum of the losses of this process's images.
        correct: number of them classified correctly before the step that learnt from them.
        norm: sum over batches of the gradient's norm before clipping.
        seen: number of images, of all processes.
        seconds: training time.
    """

    loss: Tensor
    correct: Tensor
    norm: Tensor
    seen: int = 0
    seconds: float = 0.0

    @classmethod
    def zero(cls, device: torch.device) -> Totals:
        loss, norm = torch.zeros(2, dtype=torch.float64, device=device).unbind()
        return cls(loss, torch.zeros((), dtype=torch.int64, device=device), norm)

    def over(self, processes: Processes) -> Totals:
        """The same, over the images of all processes."""
        loss, correct = processes.total(torch.stack((self.loss, self.correct.double()))).unbind()
        return dataclasses.replace(self, loss=loss, correct=correct.long())


@dataclass(frozen=True)
class Reading:
    """Progress of an epoch: means over the ``seen`` images so far."""

    epoch: int
    batch: int
    loss: float
    accuracy: float
    norm: float
    seen: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Training speed, including compilation in the first batch."""
        return self.seen / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class TestResult:
    """Accuracy on the test images, and each layer's mean spikes per neuron and step (empty without spikes)."""

    __test__ = False  # pytest would collect it by its name

    correct: int
    images: int
    firing_rates: list[float]

    @property
    def accuracy(self) -> float:
        """Share of the test images classified correctly."""
        return self.correct / self.images


class Trainer:
    """A network, its optimizer and its data, trained one epoch at a time.

    In a PyTorch process group, the trainers of all processes train one network.

    Args:
        config: all settings.
        images: the data set, on any device: images or recordings.
        prefetch: whether a thread prepares costly batches in advance. The results are the same.

    Attributes:
        network: the network being trained.
        processes: the processes that train it.
        epoch: number of complete epochs.
        batch: number of complete batches of the current epoch.
        history: metrics of the complete epochs, as in ``metrics.jsonl``.

    Raises:
        ConfigError, ArchitectureError: if the settings do not fit the data or the machine.
    """

    def __init__(self, config: TrainConfig, images: DataSet, prefetch: bool = True) -> None:
        self.config = config
        self.prefetch = prefetch
        self.processes = Processes.now()
        self.device = self.processes.own(choose_device(config.device))
        self.images = images.to(self.device)
        torch.manual_seed(config.seed)
        try:
            network = _build(config, images)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.network = network.to(self.device)
        self._parallel = self.processes.parallel(self.network)
        optimizer_class = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer]
        self._weights, constants = weights_and_constants(self.network)
        groups: list[dict[str, Any]] = [{"params": self._weights}]
        if constants:  # weight decay would pull time constants towards 2 and thresholds towards 1
            groups.append({"params": constants, "weight_decay": 0.0})
        self.optimizer = optimizer_class(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        self.epoch = 0
        self.batch = 0
        self.history: list[dict[str, Any]] = []
        self.totals = Totals.zero(self.device)

    @property
    def batches(self) -> int:
        """Number of batches in an epoch; the last one may be smaller."""
        return math.ceil(len(self.images.train_labels) / self.config.batch_size)

    def loss(self, spikes: Tensor, labels: Tensor) -> Tensor:
        """The configured loss of output ``spikes`` ``(T, B, classes)`` against ``labels`` ``(B,)``, one per image.

        For rule ``ann`` the output is logits ``(B, classes)``, and the loss is cross entropy.
        """
        config = self.config
        if config.rule == "ann":
            return nn.functional.cross_entropy(spikes, labels, reduction="none")
        if config.loss == "count":
            tau_syn = config.tau_syn if config.count == "psc" else None
            goals = config.desired_count, config.undesired_count
            return losses.spike_count_loss(spikes, labels, *goals, reduction="none", tau_syn=tau_syn)
        if config.loss == "softmax":
            return losses.softmax_count_loss(spikes, labels, reduction="none")
        target = target_pattern(labels, self.images.classes, config.pattern, config.steps, spikes.dtype)
        if config.loss == "spike-train":
            return losses.spike_train_loss(spikes, target, reduction="none")
        return losses.van_rossum_loss(spikes, target, config.tau_syn, reduction="none")

    def step(self, indices: Tensor) -> None:
        """Learn from the training images at ``indices`` ``(B,)``; each process takes its share."""
        share = indices[self.processes.share(len(indices))]
        self.learn(*self.images.training(self.config.seed, self.epoch)(share), images=len(indices))

    def learn(self, values: Tensor, labels: Tensor, images: int | None = None) -> None:
        """Learn from a batch of the data set, without waiting for the device.

        Args:
            values: this process's share of the batch.
            labels: labels of the same.
            images: number of images in the whole batch; the number of ``labels`` if not given.
        """
        config = self.config
        images = len(labels) if images is None else images
        self.processes.reseed(config.seed, self.epoch, self.batch)
        spikes = self._parallel(self.images.present(values, config.steps))
        per_image = self.loss(spikes, labels)
        loss = per_image.sum()
        self.optimizer.zero_grad(set_to_none=True)
        (loss if config.reduction == "sum" else loss / images).backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm or math.inf)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.batch)
        self.optimizer.step()
        with torch.no_grad():
            if config.clip_weight:
                for weight in self._weights:
                    weight.clamp_(-config.clip_weight, config.clip_weight)
            self.totals.loss += loss
            self.totals.correct += (self._predict(spikes) == labels).sum()
            self.totals.norm += norm
        self.totals.seen += images
        self.batch += 1

    def learning_rate(self, batch: int) -> float:
        """Learning rate of a step of the current epoch."""
        if self.config.schedule == "constant":
            return self.config.lr
        progress = (self.epoch + batch / self.batches) / self.config.epochs
        return self.config.lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    def train_epoch(
        self,
        stop: Callable[[], bool] = lambda: False,
        report: Callable[[Reading], None] = lambda reading: None,
    ) -> bool:
        """Train on the rest of the current epoch, then test; the epoch's metrics are appended to ``history``.

        Args:
            stop: called between batches; if it returns True in any process, training stops and can continue later.
            report: called with the progress about twice a second and after the last batch.

        Returns:
            Whether the epoch was completed.

        Raises:
            TrainingError: if the loss or the gradient is no longer finite.
        """
        self.network.train()
        last_reading = time.perf_counter()
        started = last_reading - self.totals.seconds
        size, count = self.config.batch_size, len(self.images.train_labels)
        with self.training_batches() as batches:
            for batch in range(self.batch, self.batches):
                due = time.perf_counter() - last_reading >= READING_INTERVAL
                stopped, due = self.processes.any(stop(), due)
                if due:
                    report(self.read())
                    last_reading = time.perf_counter()
                if stopped:
                    return False
                self.learn(*next(batches), images=min(size, count - batch * size))
                self.totals.seconds = time.perf_counter() - started
        trained = self.read()
        report(trained)
        test = self.test(stop)
        if test is None:
            return False
        self.history.append(
            {
                "epoch": self.epoch + 1,
                "loss": trained.loss,
                "train_accuracy": trained.accuracy,
                "test_accuracy": test.accuracy,
                "lr": self.learning_rate(0),
                "gradient_norm": trained.norm,
                "firing_rates": test.firing_rates,
                "seconds": trained.seconds,
                "images_per_second": trained.images_per_second,
            }
        )
        self.epoch += 1
        self.batch = 0
        self.totals = Totals.zero(self.device)
        return True

    def training_batches(self) -> AbstractContextManager[Iterator[Batch]]:
        """This process's share of the rest of the current epoch, batch by batch."""
        config, images = self.config, self.images
        make = images.training(config.seed, self.epoch)
        order = epoch_order(len(images.train_labels), config.seed, self.epoch).to(images.train_labels.device)
        batches = order.split(config.batch_size)[self.batch :]
        return self._ahead(make(batch[self.processes.share(len(batch))]) for batch in batches)

    def _ahead(self, batches: Iterable[Batch]) -> AbstractContextManager[Iterator[Batch]]:
        return Prefetcher(batches) if self.prefetch and self.images.costly else nullcontext(iter(batches))

    def read(self) -> Reading:
        """The running sums as means, read from the device. All processes must call it.

        Raises:
            TrainingError: if the loss or the gradient is no longer finite. The gradient is needed: a network with NaN
                weights does not fire, and its loss is finite.
        """
        totals = self.totals.over(self.processes)
        loss, norm, correct = totals.loss.item(), totals.norm.item(), totals.correct.item()
        for name, value in (("loss", loss), ("gradient", norm)):
            if not math.isfinite(value):
                raise TrainingError(
                    f"the {name} is no longer finite in epoch {self.epoch + 1}, at or before batch {self.batch}; "
                    "the last checkpoint is older. Try a smaller learning rate or weight scale"
                )
        seen = max(totals.seen, 1)
        means = loss / seen, correct / seen, norm / max(self.batch, 1)
        return Reading(self.epoch + 1, self.batch, *means, totals.seen, totals.seconds)

    @torch.no_grad()
    def test(self, stop: Callable[[], bool] = lambda: False) -> TestResult | None:
        """Classify every test image; None if ``stop`` returned True between batches, in any process."""
        size = self.config.test_batch_size
        count = len(self.images.test_labels)
        correct = torch.zeros(1, dtype=torch.int64, device=self.device)
        firing: list[Tensor] = []
        self.network.eval()
        starts = range(0, count, size)
        with self._ahead(self._test_share(start, min(start + size, count)) for start in starts) as batches:
            for start in starts:
                if any(self.processes.any(stop())):
                    return None
                values, labels = next(batches)
                # Firing rates are for display only; one batch is enough.
                hooks = self._record_firing(firing) if start == 0 else []
                spikes = self.network(self.images.present(values, self.config.steps))
                for hook in hooks:
                    hook.remove()
                correct += (self._predict(spikes) == labels).sum()
        # Counts are exact in float64.
        counts = self.processes.total(torch.cat([correct.double(), *firing])).tolist()
        rates = [spikes / places for spikes, places in zip(counts[1::2], counts[2::2], strict=True)]
        return TestResult(round(counts[0]), count, rates)

    def _test_share(self, start: int, stop: int) -> Batch:
        """This process's share of a batch of test images."""
        share = self.processes.share(stop - start)
        return self.images.test_batch(start + share.start, start + share.stop)

    def _record_firing(self, firing: list[Tensor]) -> list[torch.utils.hooks.RemovableHandle]:
        """Hooks that append each layer's number of spikes and number of neurons times steps, ``(2,)`` float64."""

        def record(module: nn.Module, args: Any, spikes: Tensor) -> None:
            counted = spikes.sum(dtype=torch.float64)
            firing.append(torch.stack((counted, torch.full_like(counted, spikes.numel()))))

        layers = (layer for layer in self.network.modules() if isinstance(layer, (SpikingLinear, SpikingConv2d)))
        return [layer.register_forward_hook(record) for layer in layers]

    def _predict(self, spikes: Tensor) -> Tensor:
        if self.config.rule == "ann":
            return spikes.argmax(1)
        return losses.predict(spikes.detach(), self.config.readout, self.config.tau_syn)  # type: ignore[arg-type]

    def environment(self) -> dict[str, str | int]:
        """Versions and hardware that may affect the last bits of a result."""
        return {
            "tssl-triton": importlib.metadata.version("tssl-triton"),
            "torch": str(torch.__version__),
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "implementation": implementation(self.device),
        }

    def state(self) -> dict[str, Any]:
        """The state that the rest of the training depends on, as `tssl_triton.training.checkpoint` stores it.

        All processes must call it; the first one's result is to be saved.
        """
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "totals": dict(vars(self.totals.over(self.processes))),
            "history": self.history,
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": {
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            },
            "environment": self.environment(),
        }

    def load_state(self, state: dict[str, Any], path: Path) -> None:
        """Restore a state from `state`; ``path`` is named in errors.

        Raises:
            CheckpointError: if the state does not fit the network of ``config``.
        """
        try:
            self.network.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            sums = {name: state["totals"][name].to(self.device) for name in ("loss", "correct", "norm")}
            self.totals = Totals(**sums, seen=state["totals"]["seen"], seconds=state["totals"]["seconds"])
            if not self.processes.first:  # the sums are over all processes: count them once
                none = Totals.zero(self.device)
                self.totals = dataclasses.replace(self.totals, loss=none.loss, correct=none.correct)
            torch.set_rng_state(state["rng"]["cpu"])
            if self.device.type == "cuda" and state["rng"]["cuda"] is not None:
                torch.cuda.set_rng_state(state["rng"]["cuda"], self.device)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"checkpoint {path} does not fit the network it describes: {reason}") from error
        self.epoch = state["epoch"]
        self.batch = state["batch"]
        self.history = list(state["history"])


def weights_and_constants(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters of a network: its weights, and those of its neurons' learnt constants."""
    layers = [module for module in network.modules() if isinstance(module, LearnableConstants)]
    constants = [parameter for layer in layers for parameter in layer.parameters()]
    known = {id(parameter) for parameter in constants}
    return [weight for weight in network.parameters() if id(weight) not in known], constants


def _build(config: TrainConfig, images: DataSet) -> nn.Module:
    """The untrained network of a run."""
    names = ("pool", "dropout", "weight_scale", "conv_weight_scale")
    options: dict[str, Any] = {"padding": config.paddings(), **{name: getattr(config, name) for name in names}}
    rule = config.learning_rule()
    if rule is None:
        return build_ann(config.arch, images.in_shape, images.classes, **options)
    options |= {"params": config.neuron(), "rule": rule, "recompute": config.recompute, "fused": config.fused}
    options |= {"learn": config.learnt(), "per": config.per}
    return build_network(config.arch, images.in_shape, images.classes, **options)


def choose_device(name: str) -> torch.device:
    """The device of a name; ``auto`` is the GPU if torch sees one, else the CPU.

    Raises:
        ConfigError: if the device does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ConfigError(f"device {name!r} does not exist: torch sees {count} GPUs")
    return device
