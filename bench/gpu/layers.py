"""Whole layers for `bench gpu`: the largest of CIFAR-10's CNN 2, and pairs of a fused and a composed layer.

`tssl_triton.nn.prefers_fused` decides by a layer's pixels and neurons. The pairs cover a small grid of both, and
`ratios` prints the composed layer's time over the fused one's: above 1, fusing pays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from bench.common.steps import BATCH
from bench.common.tables import aligned
from bench.static.problem import DTYPES
from tssl_triton import SpikingConv2d, SpikingLinear, lif
from tssl_triton.nn import prefers_fused

from .report import Row


@dataclass(frozen=True)
class LayerCase:
    """Forward and backward of one layer on spikes with packed bits; 16-bit types by autocast."""

    name: str
    dtype: torch.dtype
    build: Callable[[], nn.Module]
    features: tuple[int, ...]
    neurons: int
    steps: int = 5
    batch: int = BATCH
    flushed: bool = True

    def bytes(self) -> None:
        return None

    def prepare(self, device: torch.device) -> Callable[[], None]:
        layer = self.build().to(device)
        currents = torch.randn((self.steps, self.batch, *self.features), device=device).requires_grad_()
        spikes = lif(currents)
        autocast = torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32)
        with autocast:
            grad = torch.ones_like(layer(spikes))

        def work() -> None:
            with autocast:
                result = layer(spikes)
            # Up to the spikes, not through the neurons that emitted them.
            torch.autograd.grad(result, (*layer.parameters(), spikes), grad)

        return work


LAYERS: tuple[tuple[str, Callable[[], nn.Module], tuple[int, ...], int], ...] = (
    ("128 -> 256C3, 32x32", lambda: SpikingConv2d(128, 256, 3, padding=1), (128, 32, 32), 256 * 32 * 32),
    ("512x8x8 -> 1024", lambda: SpikingLinear(512 * 8 * 8, 1024), (512, 8, 8), 1024),
)
"""The largest convolution and fully connected layer of CNN 2: name, layer, input features, neurons per sample."""

PIXELS = (256, 1024, 4096, 16384, 65536)
NEURONS = (64, 256, 1024)
"""The grid: output pixels of the batch, and neurons at each. The limit of 128 tiles lies inside it."""

CHANNELS, SIZE = 28, 8
"""Input channels of a 3x3 convolution, and side of its images."""


def pair_name(pixels: int, neurons: int, fused: bool) -> str:
    return f"{pixels} pixels x {neurons}, {'fused' if fused else 'composed'}"


def pairs(dtype: torch.dtype) -> Iterator[LayerCase]:
    """The layers of the grid, each fused and then composed."""
    for pixels in PIXELS:
        for neurons in NEURONS:
            for fused in (True, False):
                yield pair(pixels, neurons, dtype, fused)


def pair(pixels: int, neurons: int, dtype: torch.dtype, fused: bool) -> LayerCase:
    """One of two equivalent layers."""

    def build() -> nn.Module:
        how = "always" if fused else "never"
        return SpikingConv2d(CHANNELS, neurons, 3, padding=1, fused=how)

    features = (CHANNELS, SIZE, SIZE)
    name = pair_name(pixels, neurons, fused)
    return LayerCase(name, dtype, build, features, pixels * neurons, batch=pixels // SIZE**2)


def ratios(rows: Iterable[Row]) -> str:
    """Composed over fused median time, a line per type and number of pixels; empty without a measured pair.

    A star marks layers that `prefers_fused` fuses.
    """
    times = {(row.name, row.dtype): row.time.p50 for row in rows}
    lines = []
    for label, dtype in DTYPES.items():
        for pixels in PIXELS:
            cells = [_ratio(times, label, dtype, pixels, neurons) for neurons in NEURONS]
            if any(cell != "-" for cell in cells):
                lines.append([label, pixels, *cells])
    heads = ["type", "pixels", *(f"{neurons} neurons" for neurons in NEURONS)]
    return aligned(heads, lines) if lines else ""


def _ratio(times: dict[tuple[str, str], float], label: str, dtype: torch.dtype, pixels: int, neurons: int) -> str:
    both = [times.get((pair_name(pixels, neurons, fused), label)) for fused in (True, False)]
    if both[0] is None or both[1] is None:
        return "-"
    star = "*" if prefers_fused("cuda", dtype, pixels, neurons, 9 * CHANNELS) else ""
    return f"{both[1] / both[0]:.2f}{star}"
