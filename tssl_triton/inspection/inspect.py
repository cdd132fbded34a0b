"""Looking into a trained network: one test sample in detail, many samples in numbers.

* Of one sample, presented as in a test: every layer's spikes; and of chosen neurons membrane, postsynaptic current and
  delta, the error of the run's own loss, as `tssl_triton.inspection.replay` works them out again.
* Of many samples: firing rates, neurons that never fire or fire at every step, and the norm of each weight's gradient.

Spikes and errors are those of the run's own layers: hooks take what goes into a layer and what comes out of it, and
autograd gives dL/ds. Only the chosen neurons are replayed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tssl_triton import losses
from tssl_triton._checks import check_count
from tssl_triton.encoding import StaticInput
from tssl_triton.functional import LIFConstants, stacked_constants
from tssl_triton.nn.weighted import LIF
from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import Rule
from tssl_triton.training.config import ConfigError
from tssl_triton.training.display import Tracker, untracked
from tssl_triton.training.trainer import Trainer

from .choose import choose_neurons, find_neurons, position, read_neuron
from .replay import ErrorTrace, MembraneTrace, error_trace, membrane_trace, warming_up
from .sparsity import LayerSparsity, SpikeCounter, counting, spiking_layers, summed

#: Neurons of each layer that are traced, and samples over which rates and norms are measured, if not said otherwise.
NEURONS = 3
SAMPLES = 1000

#: Percentiles of a layer's firing rates that are reported.
PERCENTILES = (5, 50, 95)


@dataclass(frozen=True)
class WeightNorms:
    """Euclidean norms of one parameter of a layer and of its gradient."""

    parameter: str
    gradient: float
    weight: float


@dataclass(frozen=True)
class LayerNumbers:
    """What many samples say of one layer.

    Args:
        firing: spikes per sample and rates.
        shape: of the layer's neurons, without time and batch.
        silent: number of neurons that never fire.
        saturated: number of neurons that fire at every step of every sample.
        percentiles: `PERCENTILES` of the neurons' firing rates, in spikes per step.
        norms: one entry per parameter.
        learnt: lowest, mean and highest value of each constant that the layer learns.
    """

    firing: LayerSparsity
    shape: tuple[int, ...]
    silent: int
    saturated: int
    percentiles: tuple[float, ...]
    norms: tuple[WeightNorms, ...]
    learnt: dict[str, tuple[float, float, float]]


@dataclass(frozen=True)
class TracedNeurons:
    """Chosen neurons of one layer in the presentation of one sample; series are ``(T, K)``.

    Args:
        params: constants of the neurons and of their gradient.
        constants: time constants and thresholds, ``(K,)`` each: those of ``params``, or learnt ones.
        rule: their learning rule.
        indices: K indices into the layer's neurons, the last axis running fastest.
        y: weighted input.
        grad_spikes: G = dL/ds.
        membrane: what the neurons pass through.
        error: delta, what of it is emitted, and dL/dy.
        warm: where the warm-up of TSSL-BP stands in for delta.
    """

    params: LIFParameters
    constants: LIFConstants
    rule: Rule
    indices: tuple[int, ...]
    y: Tensor
    grad_spikes: Tensor
    membrane: MembraneTrace
    error: ErrorTrace
    warm: Tensor


@dataclass(frozen=True)
class Presentation:
    """One test sample on its way through the network.

    Args:
        index: of the sample in the test set.
        label: its class.
        predicted: the class that the network says.
        loss: the run's loss.
        values: the sample as it is presented, ``(C, H, W)``, or ``(T, C, H, W)`` where it changes over time.
        spikes: of each layer, ``(T, N)`` bool.
        traces: of each layer that has chosen neurons.
    """

    index: int
    label: int
    predicted: int
    loss: float
    values: Tensor
    spikes: dict[str, Tensor]
    traces: dict[str, TracedNeurons]


@dataclass(frozen=True)
class Inspection:
    """What was found in a network.

    Args:
        trainer: whose network it is.
        samples: number of test samples behind ``layers``.
        layers: numbers of each layer, from input to output.
        sample: one test sample in detail.
    """

    trainer: Trainer
    samples: int
    layers: dict[str, LayerNumbers]
    sample: Presentation

    @property
    def title(self) -> str:
        """Data set, architecture, learning rule and epochs, in a line."""
        config = self.trainer.config
        return f"{config.dataset}  {config.arch}, rule {config.rule}, after {self.trainer.epoch} epochs"

    def table(self) -> list[list[str]]:
        """Rows of text, the heading first; one row per layer, more where it has several parameters."""
        rows = [["layer", "neurons", "rate", "silent", "saturated", "parameter", "gradient norm", "weight norm"]]
        for name, layer in self.layers.items():
            own = [name, str(layer.firing.neurons), f"{layer.firing.rate:.4f}", str(layer.silent), str(layer.saturated)]
            for norms in layer.norms:
                rows.append([*own, norms.parameter, f"{norms.gradient:.3g}", f"{norms.weight:.3g}"])
                own = [""] * len(own)
        return rows

    def as_dict(self) -> dict[str, Any]:
        """The same as plain containers, for JSON. Steps count from 0."""
        config, sample = self.trainer.config, self.sample
        return {
            "dataset": config.dataset,
            "arch": config.arch,
            "rule": config.rule,
            "steps": config.steps,
            "epochs": self.trainer.epoch,
            "samples": self.samples,
            "reduction": config.reduction,
            "layers": [_numbers_as_dict(name, layer) for name, layer in self.layers.items()],
            "sample": {
                "index": sample.index,
                "label": sample.label,
                "predicted": sample.predicted,
                "loss": sample.loss,
                "spikes_per_step": {name: spikes.sum(1).tolist() for name, spikes in sample.spikes.items()},
                "neurons": [
                    neuron
                    for name, traced in sample.traces.items()
                    for neuron in _neurons_as_dicts(name, self.layers[name].shape, traced)
                ],
            },
        }


def inspect(
    trainer: Trainer,
    sample: int = 0,
    neurons: int | Sequence[str] = NEURONS,
    samples: int = SAMPLES,
    over: Tracker[Any] = untracked,
) -> Inspection:
    """Look into the network of ``trainer``, which stays as it is, random numbers to come included.

    Args:
        trainer: of a run with spikes.
        sample: index of the test sample that is shown in detail.
        neurons: how many neurons of each layer are traced, chosen by `tssl_triton.inspection.choose.choose_neurons`; or
            which, as ``LAYER:INDEX``.
        samples: how many test samples rates and gradient norms are measured over, the first ones; all of them if there
            are fewer.
        over: what shows the progress, see `tssl_triton.training.display.choose_tracker`.

    Raises:
        ConfigError: for a network without spikes, or an argument that is out of range.
    """
    config, network, count = trainer.config, trainer.network, len(trainer.images.test_labels)
    layers = spiking_layers(network)
    if not layers:
        raise ConfigError(
            f"rule {config.rule!r} has no spiking neurons: spikes, membrane potentials, postsynaptic currents, errors "
            "over time, firing rates, silent and saturated neurons are not available"
        )
    try:
        check_count("sample", sample, 0)
        samples = min(check_count("samples", samples), count)
        wanted = (
            check_count("neurons", neurons) if isinstance(neurons, int) else [read_neuron(word) for word in neurons]
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error
    if sample >= count:
        raise ConfigError(
            f"sample must be one of the {count} test {trainer.images.noun}, 0 to {count - 1}; got {sample}"
        )

    training = network.training
    try:
        presented = _Presented(trainer, layers, sample)
        shapes = {name: tuple(spikes.shape[2:]) for name, spikes in presented.spikes.items()}
        # Before the long work: a name or an index may be wrong.
        chosen = None if isinstance(wanted, int) else find_neurons(wanted, shapes)
        counters = _count_spikes(trainer, layers, samples, over)
        norms = _norms(trainer, layers, samples, over)
        if chosen is None:
            assert isinstance(wanted, int)
            chosen = {name: choose_neurons(presented.of(name), counters[name], wanted) for name in layers}
        shown = presented.replayed({name: indices for name, indices in chosen.items() if indices})
    finally:
        network.train(training)
    numbers = {name: _numbers(name, layers[name], counters[name], shapes[name], norms[name]) for name in layers}
    return Inspection(trainer, samples, numbers, shown)


class _Presented:
    """One test sample's way through the network, with all that a replay of its neurons needs."""

    def __init__(self, trainer: Trainer, layers: Mapping[str, LIF], index: int) -> None:
        self.trainer, self.layers, self.index = trainer, layers, index
        config, images = trainer.config, trainer.images
        self.values, self.labels = images.test_batch(index, index + 1)
        self.inputs: dict[str, Tensor | StaticInput] = {}
        self.spikes: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            def hook(module: nn.Module, args: tuple[Any, ...], spikes: Tensor) -> None:
                self.inputs[name], self.spikes[name] = args[0], spikes

            return hook

        trainer.network.eval()
        hooks = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
        try:
            with torch.enable_grad():
                self.presented = images.present(self.values, config.steps)
                output = trainer.network(self.presented)
                self.loss = trainer.loss(output, self.labels).sum()
                errors = torch.autograd.grad(self.loss, list(self.spikes.values()))
        finally:
            for each in hooks:
                each.remove()
        self.grad_spikes = dict(zip(self.spikes, errors, strict=True))
        self.predicted = losses.predict(output.detach(), config.readout, config.tau_syn)  # type: ignore[arg-type]

    def of(self, name: str) -> Tensor:
        """Spikes of a layer, ``(T, N)`` bool."""
        return _flat(self.spikes[name]).cpu() != 0

    def replayed(self, chosen: Mapping[str, tuple[int, ...]]) -> Presentation:
        values = self.presented
        return Presentation(
            index=self.index,
            label=int(self.labels),
            predicted=int(self.predicted),
            loss=self.loss.item(),
            values=(values.values[0] if isinstance(values, StaticInput) else values[:, 0]).detach().cpu().float(),
            spikes={name: self.of(name) for name in self.layers},
            traces={name: self._traced(name, indices) for name, indices in chosen.items()},
        )

    @torch.no_grad()
    def _traced(self, name: str, indices: tuple[int, ...]) -> TracedNeurons:
        layer = self.layers[name]
        weighted = layer.weighted(self.inputs[name])
        dense = weighted if isinstance(weighted, Tensor) else weighted.dense()
        y, spikes, grad = (
            _flat(series)[:, list(indices)].detach().cpu()
            for series in (dense, self.spikes[name], self.grad_spikes[name])
        )
        learnt = LIFConstants() if layer.constants is None else layer.constants()
        rows = stacked_constants(learnt, layer.params, dense)[:, 0].flatten(1)[:, list(indices)].cpu()
        constants = LIFConstants(*rows)
        given = None if layer.constants is None else constants
        membrane = membrane_trace(y, layer.params, synapse=layer.synapse, spikes=spikes, learnt=given)
        error = error_trace(membrane, grad, layer.params, layer.rule, synapse=layer.synapse, learnt=given)
        warm = warming_up(membrane, layer.params, layer.rule, given)
        return TracedNeurons(layer.params, constants, layer.rule, indices, y, grad, membrane, error, warm)


def _flat(series: Tensor) -> Tensor:
    """``(T, 1, *)`` as ``(T, N)``."""
    return series[:, 0].flatten(1)


@torch.no_grad()
def _count_spikes(
    trainer: Trainer, layers: Mapping[str, LIF], samples: int, over: Tracker[Any]
) -> dict[str, SpikeCounter]:
    """Spikes of each layer over the first ``samples`` test samples, as in a test."""
    config, images, size = trainer.config, trainer.images, trainer.config.test_batch_size
    trainer.network.eval()
    with counting(layers, config.steps) as counters:
        for start in over(range(0, samples, size), "firing rates"):
            values, _ = images.test_batch(start, min(start + size, samples))
            trainer.network(images.present(values, config.steps))
    return counters


def _norms(
    trainer: Trainer, layers: Mapping[str, LIF], samples: int, over: Tracker[Any]
) -> dict[str, tuple[WeightNorms, ...]]:
    """Norms of each layer's parameters and of their gradients, of the first ``samples`` test samples as one batch.

    The gradient is what a training step would take before clipping: with dropout, and the run's ``reduction``.
    """
    config, images, size = trainer.config, trainer.images, trainer.config.batch_size
    parameters = {
        (name, kind): parameter for name, layer in layers.items() for kind, parameter in layer.named_parameters()
    }
    sums = [torch.zeros_like(parameter) for parameter in parameters.values()]
    trainer.network.train()
    devices = [trainer.device] if trainer.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        for start in over(range(0, samples, size), "gradient norms"):
            values, labels = images.test_batch(start, min(start + size, samples))
            loss = trainer.loss(trainer.network(images.present(values, config.steps)), labels).sum()
            for total, gradient in zip(sums, torch.autograd.grad(loss, list(parameters.values())), strict=True):
                total += gradient
    scale = 1.0 if config.reduction == "sum" else 1.0 / samples
    norms: dict[str, list[WeightNorms]] = {name: [] for name in layers}
    for ((name, kind), parameter), total in zip(parameters.items(), sums, strict=True):
        norms[name].append(WeightNorms(kind, scale * float(total.norm()), float(parameter.detach().norm())))
    return {name: tuple(each) for name, each in norms.items()}


@torch.no_grad()
def _numbers(
    name: str, layer: LIF, counter: SpikeCounter, shape: tuple[int, ...], norms: tuple[WeightNorms, ...]
) -> LayerNumbers:
    assert counter.spikes is not None
    most = counter.steps * counter.samples
    rates = counter.spikes.double() / most
    quantiles = torch.quantile(rates, torch.tensor(PERCENTILES, dtype=torch.float64) / 100)
    return LayerNumbers(
        firing=summed(name, [counter]),
        shape=shape,
        silent=int((counter.spikes == 0).sum()),
        saturated=int((counter.spikes == most).sum()),
        percentiles=tuple(quantiles.tolist()),
        norms=norms,
        learnt={
            constant: (float(values.min()), float(values.mean()), float(values.max()))
            for constant, values in (layer.constants()._asdict().items() if layer.constants is not None else ())
            if values is not None
        },
    )


def _numbers_as_dict(name: str, layer: LayerNumbers) -> dict[str, Any]:
    return {
        "name": name,
        "shape": list(layer.shape),
        "neurons": layer.firing.neurons,
        "rate": layer.firing.rate,
        "rate_percentiles": dict(zip(map(str, PERCENTILES), layer.percentiles, strict=True)),
        "silent": layer.silent,
        "saturated": layer.saturated,
        "share_firing_k_times": list(layer.firing.shares),
        "norms": [
            {"parameter": norms.parameter, "gradient": norms.gradient, "weight": norms.weight} for norms in layer.norms
        ],
        "learnt": {
            constant: dict(zip(("lowest", "mean", "highest"), values, strict=True))
            for constant, values in layer.learnt.items()
        },
    }


def _neurons_as_dicts(name: str, shape: Sequence[int], traced: TracedNeurons) -> list[dict[str, Any]]:
    series = {
        "y": traced.y,
        "i": traced.membrane.current,
        "u": traced.membrane.membrane,
        "v": traced.membrane.rest,
        "s": traced.membrane.spikes.int(),
        "a": traced.membrane.psc,
        "grad_spikes": traced.grad_spikes,
        "delta": traced.error.delta,
        "emitted": traced.error.emitted,
        "grad_current": traced.error.grad_current,
        "warm_up": traced.warm,
    }
    return [
        {
            "layer": name,
            "index": index,
            "position": list(position(index, shape)),
            "constants": {
                kind: float(values[k]) for kind, values in traced.constants._asdict().items() if values is not None
            },
            **{kind: values[:, k].tolist() for kind, values in series.items()},
        }
        for k, index in enumerate(traced.indices)
    ]
