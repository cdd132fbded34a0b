"""One training step of each of the paper's networks, as a user would write it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from tssl_triton import LIFParameters, build_network, losses
from tssl_triton.encoding import StaticInput, static, target_pattern
from tssl_triton.nn import LIF, SpikingSequential
from tssl_triton.training.presets import EXPERIMENTS, Experiment

from .tracing import DEVICE, pretending

BATCH = 50
"""Images per step, as in the paper."""

CLASSES = 10

RECORDINGS = ("n-mnist",)
"""Experiments whose input is a spike train; in the others it is an image, the same at every step."""


class TrainingStep:
    """A network, its optimizer and one batch. A call makes one training step and returns the loss, on the device.

    Args:
        name: experiment, a key of `tssl_triton.training.presets.EXPERIMENTS`.
        batch: images or recordings in the batch.
        device: of network and batch.
        seed: of the weights and the batch.
        fused: as in `tssl_triton.build_network`.
        steps: time steps T; default: the experiment's.
        network: default: the experiment's, with new weights.
        dtype: of the inputs.

    For another batch, write into `inputs` and `labels`. A step never waits for the device, and a CUDA graph can capture
    it, optimizer included.
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
        self.network: nn.Module = build(self.experiment, device, seed, fused) if network is None else network
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=5e-4, fused=True, capturable=device.type == "cuda"
        )
        spiking = name in RECORDINGS
        shape = (batch, *self.experiment.in_shape)
        self.inputs = _random((self.experiment.steps, *shape) if spiking else shape, spiking, device, seed).to(dtype)
        self.labels = torch.arange(batch, device=device) % CLASSES

    def __call__(self) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.network(self.presented()))
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def presented(self) -> Tensor | StaticInput:
        """The batch as the network's input."""
        spiking = self.inputs.dim() > 1 + len(self.experiment.in_shape)
        return self.inputs if spiking else static(self.inputs, self.experiment.steps)

    def loss(self, spikes: Tensor) -> Tensor:
        """The experiment's loss; ``spikes`` are the network's output, ``(T, B, classes)``."""
        if self.experiment.counts is not None:
            return losses.spike_count_loss(spikes, self.labels, *self.experiment.counts)
        assert self.experiment.pattern is not None
        target = target_pattern(self.labels, CLASSES, self.experiment.pattern, self.experiment.steps)
        return losses.van_rossum_loss(spikes, target, self.experiment.tau_syn)


def build(
    experiment: Experiment, device: torch.device, seed: int = 0, fused: str = "auto", rule: str = "tssl"
) -> SpikingSequential:
    """The network of an experiment. Weights are drawn on the CPU, hence the same on every device."""
    torch.manual_seed(seed)
    with torch.device(device if device.type == "meta" else "cpu"):
        network = build_network(
            experiment.architecture, experiment.in_shape, CLASSES, padding=experiment.padding, rule=rule, fused=fused,
            params=LIFParameters(experiment.tau_mem, experiment.tau_syn),
        )  # fmt: skip
    return network.to(device)


def spiking_layers(network: nn.Module) -> list[LIF]:
    """The layers with neurons, in order."""
    return [layer for layer in network.modules() if isinstance(layer, LIF)]


def layer_shapes(name: str) -> list[tuple[int, ...]]:
    """Shape of each spiking layer of an experiment's network, ``(C, H, W)`` or ``(N,)``."""
    found: list[tuple[int, ...]] = []
    with pretending():
        step = TrainingStep(name, 1, DEVICE)
        for layer in spiking_layers(step.network):
            layer.register_forward_hook(lambda _, inputs, spikes: found.append(tuple(spikes.shape[2:])))
        step.network(step.presented())
    return found


def _random(shape: tuple[int, ...], spiking: bool, device: torch.device, seed: int) -> Tensor:
    if device.type == "meta":
        return torch.empty(shape, device=device)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator)
    return ((values > 1.0).float() if spiking else values).to(device)
