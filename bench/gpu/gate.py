"""The gate before `bench gpu`: no time is printed for a device whose results disagree with the CPU path.

Every kernel runs on the device in each type that is measured, and on the CPU in float64 with the same rounded numbers.
Spikes must be equal. Neurons whose spikes a shift of the threshold by 1e-4 would change are left out: float32 may
decide them either way.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tssl_triton import LIFParameters, lif

from .cases import DTYPES, KERNELS, LEARNT, KernelCase, short

NEURONS = 1013
STEPS = (5, 33)
MARGIN = 1e-4
EXACT = ("lif forward", LEARNT[0], "pack", "unpack")
"""Kernels whose results are 0 and 1, or bits."""

TOLERANCES = {torch.float32: 1e-4, torch.float16: 2**-10, torch.bfloat16: 2**-7}
"""Error over a neuron's largest value: rounding to the type, and what kappa and a run's carry make of float32's."""

Answer = Callable[[KernelCase, Tensor, Tensor], Tensor]


def answer(case: KernelCase, y: Tensor, grad: Tensor) -> Tensor:
    """What the case's operator returns first, on the CPU."""
    operator, arguments = case.operands(y, grad)
    result = operator(*arguments)
    return (result[0] if isinstance(result, tuple) else result).cpu()


def complaints(device: torch.device, answer: Answer = answer) -> list[str]:
    """One line for every kernel, type and number of steps whose result is wrong; empty if all are right."""
    found = []
    for steps in STEPS:
        generator = torch.Generator().manual_seed(steps)
        exact_y = torch.randn((steps, NEURONS), generator=generator, dtype=torch.float64) * 1.5
        exact_grad = torch.randn((steps, NEURONS), generator=generator, dtype=torch.float64)
        for dtype in DTYPES:
            y, grad = exact_y.to(dtype), exact_grad.to(dtype)
            sure = clear(y.double())
            for name in KERNELS:
                case = KernelCase(name, dtype, steps, NEURONS)
                got = answer(case, y.to(device), grad.to(device))
                want = answer_in_float64(case, y, grad)
                problem = difference(got[:, sure], want[:, sure], dtype, exact=name in EXACT)
                if problem:
                    found.append(f"{name}, {short(dtype)}, T = {steps}: {problem}")
    return found


def answer_in_float64(case: KernelCase, y: Tensor, grad: Tensor) -> Tensor:
    return answer(KernelCase(case.name, torch.float64, case.steps, case.neurons), y.double(), grad.double())


def clear(y: Tensor) -> Tensor:
    """Which neurons spike alike with the threshold moved up and down by the margin, ``(N,)``."""
    low, high = (lif(y, LIFParameters(threshold=1.0 + shift)) for shift in (-MARGIN, MARGIN))
    return (low == high).all(0)


def difference(got: Tensor, want: Tensor, dtype: torch.dtype, exact: bool) -> str:
    """What is wrong with ``got (T, N)``; empty if nothing is."""
    got, want = got.double(), want.double()
    if got.shape != want.shape:
        return f"shape {tuple(got.shape)} instead of {tuple(want.shape)}"
    if exact:
        wrong = int((got != want).sum())
        return f"{wrong} of {want.numel()} values differ" if wrong else ""
    # Compared so that NaN is wrong.
    allowed = TOLERANCES[dtype] * want.abs().amax(0) + 1e-7
    error = ((got - want).abs() / allowed).amax()
    return "" if error <= 1 else f"off by {float(error):.3g} times what is allowed"
