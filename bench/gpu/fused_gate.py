"""The gate for the fused layers' kernels, beside that of `bench.gpu.gate` for the others.

Each runs on the device in every type that is measured. Its y and its weight gradient are held against products in
float64 of the same rounded numbers, its spikes against neurons in float64 whose input is the kernel's own y.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tssl_triton.kernels.layout import word_dtype

from tssl_triton import LIFParameters, lif

from .cases import DTYPES, short
from .gate import STEPS, clear, difference

CHANNELS, NEURONS, BATCH, SIZE = 37, 45, 3, 5
KERNELS = {"spike_linear": (1, 1), "spike_conv2d 3x3": (3, SIZE), "spike_conv2d 5x5": (5, SIZE)}
"""Height and width of the kernel, and of the images."""

Results = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Layer:
    """Operands of one layer, on the CPU and in the type that is tried."""

    spikes: Tensor
    weight: Tensor
    grad: Tensor
    padding: int

    @classmethod
    def drawn(cls, kernel: int, size: int, steps: int, dtype: torch.dtype) -> Layer:
        generator = torch.Generator().manual_seed(steps)
        spikes = torch.rand((steps, BATCH, CHANNELS, size, size), generator=generator) < 0.4
        weight = torch.randn((NEURONS, CHANNELS, kernel, kernel), generator=generator) * 3 / (CHANNELS**0.5 * kernel)
        grad = torch.randn((steps, BATCH, NEURONS, size, size), generator=generator)
        return cls(spikes.to(dtype), weight.to(dtype), grad.to(dtype), kernel // 2)

    def product(self, weight: Tensor) -> Tensor:
        """y in float64, ``(T, B, N, H, W)``."""
        spikes = self.spikes.double().flatten(0, 1)
        return F.conv2d(spikes, weight, padding=self.padding).unflatten(0, self.spikes.shape[:2])


def answer(layer: Layer, device: torch.device) -> Results:
    """y, spikes and the weight gradient that the kernels on ``device`` make of a layer, on the CPU."""
    operators, steps = torch.ops.tssl_triton, len(layer.spikes)
    words = operators.pack(layer.spikes.to(device), word_dtype(steps))
    weight, sizes = layer.weight.to(device), (steps, [1, 1], [layer.padding] * 2)
    _, packed, y, _, _ = operators.spike_weighted(
        words, weight, None, None, *sizes, True, False, False, *astuple(LIFParameters())
    )
    grad_weight = operators.spike_weight_gradient(layer.grad.to(device), words, weight, *sizes)
    return y.cpu(), operators.unpack(packed, steps, y.dtype).cpu(), grad_weight.cpu()


def complaints(device: torch.device, answer: Callable[[Layer, torch.device], Results] = answer) -> list[str]:
    """One line for every kernel, type and number of steps whose result is wrong; empty if all are right."""
    found = []
    for name, (kernel, size) in KERNELS.items():
        for steps in STEPS:
            for dtype in DTYPES:
                layer = Layer.drawn(kernel, size, steps, dtype)
                for result, problem in problems(layer, *answer(layer, device)).items():
                    found.append(f"{name} {result}, {short(dtype)}, T = {steps}: {problem}")
    return found


def problems(layer: Layer, y: Tensor, spikes: Tensor, grad_weight: Tensor) -> dict[str, str]:
    """What is wrong with each of a layer's results, as far as anything is."""
    weight = layer.weight.double().requires_grad_()
    want = layer.product(weight)
    want.backward(layer.grad.double())
    assert weight.grad is not None
    own = y.double().flatten(1)
    sure = clear(own)
    found = {
        "y": difference(y.flatten(1), want.detach().flatten(1), y.dtype, exact=False),
        "spikes": difference(spikes.flatten(1)[:, sure], lif(own)[:, sure], y.dtype, exact=True),
        "weight gradient": difference(grad_weight.flatten(1).t(), weight.grad.flatten(1).t(), y.dtype, exact=False),
    }
    return {result: problem for result, problem in found.items() if problem}
