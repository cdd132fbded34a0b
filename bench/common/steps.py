"""One step of training of each of the paper's networks, written as a user would write it by hand."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from tssl_triton import LIFParameters, build_network, losses
from tssl_triton.encoding import StaticInput, static, target_pattern
from tssl_triton.nn.weighted import LIF, SpikingSequential
from tssl_triton.training.presets import EXPERIMENTS, Experiment

from .tracing import DEVICE, pretending

BATCH = 50
"""Images per step, as in the paper."""

CLASSES = 10

RECORDINGS = ("n-mnist",)
"""Experiments whose input is a spike train; the others present an image unchanged at every step."""


class TrainingStep:
    """A network, its optimizer and one batch; calling it makes one step and returns the loss, on the device.

    Args:
        name: of the experiment, a key of `tssl_triton.training.presets.EXPERIMENTS`.
        batch: images, or recordings, in the batch.
        device: where all of it is.
        seed: of the weights and of the batch.
        fused: which layers run as one kernel, see `tssl_triton.build_network`.
        steps: time steps T, where they are not to be the experiment's.
        network: the network, where it is not to be the experiment's own, new.
        dtype: of the inputs.

    The batch is `inputs` and `labels`: write into them for another one. Nothing in a step waits for the device, and the
    optimizer can be captured in a CUDA graph.
    """

    def __init__(
        self,
        name: str,
        batch: int = BATCH,
        device: torch.device | str = "cpu",
        seed: int = 0,
        fused: str = "auto",
        *,
        steps: int | None = None,
        network: nn.Module | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        device = torch.device(device)
        self.experiment = replace(EXPERIMENTS[name], steps=steps or EXPERIMENTS[name].steps)
        self.network: nn.Module = built(self.experiment, device, seed, fused) if network is None else network
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=5e-4, fused=True, capturable=device.type == "cuda"
        )
        spiking = name in RECORDINGS
        shape = (batch, *self.experiment.in_shape)
        self.inputs = _drawn((self.experiment.steps, *shape) if spiking else shape, spiking, device, seed).to(dtype)
        self.labels = torch.arange(batch, device=device) % CLASSES

    def __call__(self) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.network(self.presented()))
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def presented(self) -> Tensor | StaticInput:
        """The batch as the network takes it."""
        spiking = self.inputs.dim() > 1 + len(self.experiment.in_shape)
        return self.inputs if spiking else static(self.inputs, self.experiment.steps)

    def loss(self, spikes: Tensor) -> Tensor:
        """The experiment's loss of output ``spikes`` ``(T, B, classes)``."""
        if self.experiment.counts is not None:
            return losses.spike_count_loss(spikes, self.labels, *self.experiment.counts)
        assert self.experiment.pattern is not None
        target = target_pattern(self.labels, CLASSES, self.experiment.pattern, self.experiment.steps)
        return losses.van_rossum_loss(spikes, target, self.experiment.tau_syn)


def built(
    experiment: Experiment, device: torch.device, seed: int = 0, fused: str = "auto", rule: str = "tssl"
) -> SpikingSequential:
    """The network of an experiment with fresh weights, which no device changes: they are drawn on the CPU."""
    torch.manual_seed(seed)
    with torch.device(device if device.type == "meta" else "cpu"):
        made = build_network(
            experiment.architecture,
            experiment.in_shape,
            CLASSES,
            params=LIFParameters(experiment.tau_mem, experiment.tau_syn),
            padding=experiment.padding,
            rule=rule,
            fused=fused,
        )
    return made.to(device)


def spiking_layers(network: nn.Module) -> list[LIF]:
    """The layers with neurons, first to last."""
    return [layer for layer in network.modules() if isinstance(layer, LIF)]


def layer_shapes(name: str) -> list[tuple[int, ...]]:
    """The neurons of each spiking layer of an experiment's network, ``(C, H, W)`` or ``(N,)``, first to last."""
    found: list[tuple[int, ...]] = []
    with pretending():
        step = TrainingStep(name, 1, DEVICE)
        for layer in spiking_layers(step.network):
            layer.register_forward_hook(lambda _, inputs, spikes: found.append(tuple(spikes.shape[2:])))
        step.network(step.presented())
    return found


def _drawn(shape: tuple[int, ...], spiking: bool, device: torch.device, seed: int) -> Tensor:
    if device.type == "meta":
        return torch.empty(shape, device=device)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator)
    return ((values > 1.0).float() if spiking else values).to(device)
