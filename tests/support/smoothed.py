"""The smoothed neuron in PyTorch's autograd: a step's value with a window's slope, and every path differentiated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WINDOWS = ["rectangular", "triangular", "arctan", "sigmoid", "fast-sigmoid", "exponential"]


def antiderivative(x: Tensor, window: str, width: float) -> Tensor:
    """S, from 0 to 1, whose derivative is the window."""
    z = x / width
    return {
        "rectangular": lambda: (z + 0.5).clamp(0, 1),
        "triangular": lambda: torch.where(z < 0, 0.5 * (1 + z).clamp(min=0) ** 2, 1 - 0.5 * (1 - z).clamp(min=0) ** 2),
        "arctan": lambda: torch.atan(z) / math.pi + 0.5,
        "sigmoid": lambda: torch.sigmoid(z),
        "fast-sigmoid": lambda: 0.5 * z / (1 + z.abs()) + 0.5,
        "exponential": lambda: torch.where(z < 0, 0.5 * torch.exp(-z.abs()), 1 - 0.5 * torch.exp(-z.abs())),
    }[window]()


def smoothed_run(
    y: Tensor,
    state: Sequence[Tensor] | None,
    synapse: bool,
    reset: str,
    *,
    surrogate: str,
    width: float,
    scale: float,
    reset_gradient: str,
    tau_mem: float | Tensor,
    tau_syn: float | Tensor,
    threshold: float | Tensor,
    feedback: Callable[[Tensor], Tensor] = torch.zeros_like,
) -> Tensor:
    """Spikes ``(T, *)`` that autograd differentiates, H(x) + S(x) - S(x).detach() of x = u - threshold.

    ``y (T, *)`` is the weighted input; ``feedback`` of a step's spikes is added to the next step's.
    """
    i, v = (torch.zeros_like(y[0]),) * 2 if state is None else state[:2]
    s = torch.zeros_like(y[0])
    spikes = []
    for y_t in y:
        y_t = y_t + feedback(s)
        i = (1 - 1 / tau_syn) * i + y_t / tau_syn if synapse else y_t
        u = (1 - 1 / tau_mem) * v + i
        smooth = scale * antiderivative(u - threshold, surrogate, width)
        s = (u > threshold).double() + (smooth - smooth.detach())
        spikes.append(s)
        resetting = s if reset_gradient == "full" else s.detach()
        v = u * (1 - resetting) if reset == "zero" else u - threshold * resetting
        if reset_gradient == "none":
            v = u + (v - u).detach()
    return torch.stack(spikes)
