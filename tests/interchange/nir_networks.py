"""Networks of every kind that NIR can express, input spikes for them, and the spikes of their layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tssl_triton import (
    LIF,
    SLAYER,
    STBP,
    LIFParameters,
    SpikePool2d,
    SpikingConv2d,
    SpikingLinear,
    SpikingSequential,
    TimeSharedDropout,
    build_network,
)

STEPS, BATCH = 24, 3

#: u has an error of about 1e-6 of the threshold in single precision; no spike may depend on less than this.
MARGIN = 1e-5


Network = tuple[tuple[int, ...], SpikingSequential]
"""The shape of one input, and the layers."""


def linear() -> Network:
    return (30,), SpikingSequential(SpikingLinear(30, 40, bias=True, weight_scale=2), SpikingLinear(40, 10))


def convolutions() -> Network:
    """Stride, padding, an uneven kernel's padding, bias, both poolings, dropout."""
    params = LIFParameters(tau_mem=7.5, tau_syn=2.25, threshold=0.8, max_slope=4, warmup="silent", variant="paper")
    return (2, 13, 12), SpikingSequential(
        SpikingConv2d(2, 6, 3, params, stride=2, padding=1, bias=True, weight_scale=2),
        SpikePool2d(2),
        TimeSharedDropout(0.4),
        SpikingConv2d(6, 8, 3, padding=(1, 2), recompute=True, fused="never"),
        SpikePool2d((1, 2), "average"),
        TimeSharedDropout(0.2),
        SpikingLinear(8 * 3 * 2, 20, bias=True, rule=STBP("arctan", 0.7, "detached"), weight_scale=2),
        SpikingLinear(20, 5, rule=SLAYER(scale=0.5), weight_scale=2),
    )


def notation() -> Network:
    return (1, 14, 14), build_network("6C3-P2-8C3-P2-30", (1, 14, 14), 4, dropout=0.2, weight_scale=2.5)


def poolings_in_a_row() -> Network:
    return (1, 12, 12), SpikingSequential(
        SpikingConv2d(1, 4, 3, padding=1, weight_scale=2),
        SpikePool2d(2, scale=1.1),
        SpikePool2d(3, scale=0.7),
        SpikingLinear(4 * 2 * 2, 10),
    )


def neurons_without_weights() -> Network:
    """As the first layer, behind a scaled pooling, and without synapse."""
    return (3, 8, 8), SpikingSequential(
        SpikePool2d(2, scale=0.37),
        LIF(),
        SpikePool2d((2, 1), "sum", 0.9),
        LIF(LIFParameters(tau_mem=3, threshold=2.31), synapse=False, rule="stbp"),
        SpikingSequential(SpikingLinear(3 * 2 * 4, 12, weight_scale=2)),
    )


NETWORKS = (linear, convolutions, notation, poolings_in_a_row, neurons_without_weights)


def made(network: Callable[[], Network], seed: int = 6) -> Network:
    """A network with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    shape, layers = network()
    for weights in layers.parameters():
        if weights.dim() == 1:
            nn.init.normal_(weights, 0.1, 0.1)
    return shape, layers.eval()


def spike_trains(shape: tuple[int, ...], seed: int = 0, rate: float = 0.4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(STEPS, BATCH, *shape, generator=generator) < rate).float()


def neurons_of(network: nn.Module) -> list[LIF]:
    return [layer for layer in network.modules() if isinstance(layer, LIF)]


def spikes_of(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Spikes of every layer with neurons."""
    seen: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda *of: seen.append(of[-1])) for layer in neurons_of(network)]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return seen


def assert_fires(spikes: Sequence[Any]) -> None:
    """Check that every layer fires sometimes but not always, so that comparing spikes is meaningful."""
    for number, layer in enumerate(spikes):
        assert 0.01 < float(layer.mean()) < 0.95, f"layer {number} fires {float(layer.mean()):.3f} times a step"
