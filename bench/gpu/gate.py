"""The check before `bench gpu`: no times are printed for a device whose results disagree with the CPU's.

Every kernel runs on the device in each measured type, and is compared with float64 on the CPU for the same rounded
inputs. Spikes must be equal. Neurons whose spikes change if the threshold moves by 1e-4 are left out, as rounding may
decide them either way.

The fused layers' y and weight gradient are compared with products in float64, their spikes with float64 neurons on the
kernel's own y.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tssl_triton.kernels.layout import word_dtype

from bench.static.problem import DTYPES
from tssl_triton import LIFParameters, lif
from tssl_triton.operators import has_fused_kernel, write_settings

from .cases import KERNELS, LEARNT, KernelCase

NEURONS = 1013
STEPS = (5, 33)
MARGIN = 1e-4
EXACT = ("lif forward", LEARNT[0], "pack", "unpack")
"""Kernels whose results are spikes or bits."""

TOLERANCES = {torch.float32: 1e-4, torch.float16: 2**-10, torch.bfloat16: 2**-7}
"""Relative to a neuron's largest value. The steepness kappa and the carry over time amplify float32's rounding."""

BATCH, CHANNELS, OUTPUTS, SIZE = 3, 37, 45, 5
LAYERS = {"spike_linear": (1, 1), "spike_conv2d 3x3": (3, SIZE), "spike_conv2d 5x5": (5, SIZE)}
"""Fused layers: size of the kernel and of the images."""

Answer = Callable[[KernelCase, Tensor, Tensor], Tensor]


def mismatches(device: torch.device) -> list[str]:
    """One line per wrong result of any kernel on ``device``."""
    fused = has_fused_kernel(device, torch.float32)
    return kernel_mismatches(device) + (layer_mismatches(device) if fused else [])


# --- one kernel per operator ------------------------------------------------------------------------------------


def kernel_answer(case: KernelCase, y: Tensor, grad: Tensor) -> Tensor:
    """The first result of the case's operator, on the CPU."""
    operator, arguments = case.operands(y, grad)
    result = operator(*arguments)
    return (result[0] if isinstance(result, tuple) else result).cpu()


def kernel_mismatches(device: torch.device, answer: Answer = kernel_answer) -> list[str]:
    """One line per kernel, type and number of steps with a wrong result."""
    found = []
    for steps in STEPS:
        generator = torch.Generator().manual_seed(steps)
        exact_y = torch.randn((steps, NEURONS), generator=generator, dtype=torch.float64) * 1.5
        exact_grad = torch.randn((steps, NEURONS), generator=generator, dtype=torch.float64)
        for label, dtype in DTYPES.items():
            y, grad = exact_y.to(dtype), exact_grad.to(dtype)
            certain = unambiguous(y.double())
            for name in KERNELS:
                got = answer(KernelCase(name, dtype, steps, NEURONS), y.to(device), grad.to(device))
                want = kernel_answer(KernelCase(name, torch.float64, steps, NEURONS), y.double(), grad.double())
                problem = difference(got[:, certain], want[:, certain], dtype, exact=name in EXACT)
                if problem:
                    found.append(f"{name}, {label}, T = {steps}: {problem}")
    return found


# --- fused layers -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operands:
    """Inputs of a fused layer, on the CPU, and its padding."""

    spikes: Tensor
    weight: Tensor
    grad: Tensor
    padding: int

    @classmethod
    def random(cls, kernel: int, size: int, steps: int, dtype: torch.dtype) -> Operands:
        generator = torch.Generator().manual_seed(steps)
        spikes = torch.rand((steps, BATCH, CHANNELS, size, size), generator=generator) < 0.4
        weight = torch.randn((OUTPUTS, CHANNELS, kernel, kernel), generator=generator) * 3 / (CHANNELS**0.5 * kernel)
        grad = torch.randn((steps, BATCH, OUTPUTS, size, size), generator=generator)
        return cls(spikes.to(dtype), weight.to(dtype), grad.to(dtype), kernel // 2)


@dataclass(frozen=True)
class LayerResults:
    """Results of a fused layer's kernels, on the CPU."""

    y: Tensor
    spikes: Tensor
    grad_weight: Tensor


def layer_answer(layer: Operands, device: torch.device) -> LayerResults:
    """Run a fused layer's kernels on ``device``."""
    operators, steps = torch.ops.tssl_triton, len(layer.spikes)
    words = operators.pack(layer.spikes.to(device), word_dtype(steps))
    weight, sizes = layer.weight.to(device), (steps, [1, 1], [layer.padding] * 2)
    _, packed, y, _, _ = operators.spike_weighted(
        words, weight, None, None, write_settings(LIFParameters()), *sizes, True, False, False
    )
    grad_weight = operators.spike_weight_gradient(layer.grad.to(device), words, weight, *sizes)
    return LayerResults(y.cpu(), operators.unpack(packed, steps, y.dtype).cpu(), grad_weight.cpu())


def layer_mismatches(
    device: torch.device, answer: Callable[[Operands, torch.device], LayerResults] = layer_answer
) -> list[str]:
    """One line per wrong result of a fused layer, type and number of steps."""
    found = []
    for name, (kernel, size) in LAYERS.items():
        for steps in STEPS:
            for label, dtype in DTYPES.items():
                layer = Operands.random(kernel, size, steps, dtype)
                for result, problem in layer_problems(layer, answer(layer, device)).items():
                    found.append(f"{name} {result}, {label}, T = {steps}: {problem}")
    return found


def layer_problems(layer: Operands, got: LayerResults) -> dict[str, str]:
    """The wrong results of a fused layer, by name."""
    spikes, weight = layer.spikes.double().flatten(0, 1), layer.weight.double().requires_grad_()
    want = F.conv2d(spikes, weight, padding=layer.padding).unflatten(0, layer.spikes.shape[:2])
    want.backward(layer.grad.double())
    assert weight.grad is not None
    y, dtype = got.y.double().flatten(1), got.y.dtype
    certain = unambiguous(y)
    found = {
        "y": difference(y, want.detach().flatten(1), dtype, exact=False),
        "spikes": difference(got.spikes.flatten(1)[:, certain], lif(y)[:, certain], dtype, exact=True),
        "weight gradient": difference(got.grad_weight.flatten(1).t(), weight.grad.flatten(1).t(), dtype, exact=False),
    }
    return {result: problem for result, problem in found.items() if problem}


# --- comparison -------------------------------------------------------------------------------------------------


def unambiguous(y: Tensor) -> Tensor:
    """Neurons ``(N,)`` whose spikes are the same with the threshold moved up and down by the margin."""
    low, high = (lif(y, LIFParameters(threshold=1.0 + shift)) for shift in (-MARGIN, MARGIN))
    return (low == high).all(0)


def difference(got: Tensor, want: Tensor, dtype: torch.dtype, exact: bool) -> str:
    """How ``got (T, N)`` differs from ``want``; empty if it does not."""
    got, want = got.double(), want.double()
    if got.shape != want.shape:
        return f"shape {tuple(got.shape)} instead of {tuple(want.shape)}"
    if exact:
        wrong = int((got != want).sum())
        return f"{wrong} of {want.numel()} values differ" if wrong else ""
    allowed = TOLERANCES[dtype] * want.abs().amax(0) + 1e-7
    error = ((got - want).abs() / allowed).amax()
    # NaN fails this comparison.
    return "" if error <= 1 else f"error is {float(error):.3g} times the tolerance"
