"""One step of the surrogate rules in PyTorch, STBP and SLAYER; `tssl_triton.cpu.neuron` walks time with it.

The equations are those of `tssl_triton.kernels.surrogate`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tssl_triton.rules import Surrogate

from .learnt import Neuron


def membrane_error(
    rule: Surrogate, p: Neuron, u: Tensor, fired: Tensor, g: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor]:
    """delta[t] = dL/du[t] from u[t], the spike, G[t] = dL/ds[t] and delta[t+1].

    The second is the part of it that comes of crossing the threshold.
    """
    after = p.alpha * delta  # dL/dv[t]
    if rule.reset_gradient == "full":
        g = g - (u if p.reset == "zero" else p.threshold) * after
    if rule.reset_gradient != "none" and p.reset == "zero":
        after = torch.where(fired, 0.0, after)
    crossing = slope(rule, u - p.threshold) * g
    return crossing + after, crossing


def slope(rule: Surrogate, x: Tensor) -> Tensor:
    """f at the distance x from the threshold, where it is ``rule.peak``."""
    z = torch.abs(x) * (1.0 / rule.width)
    if rule.window == "rectangular":
        return rule.peak * (torch.abs(x) < 0.5 * rule.width).to(x.dtype)
    if rule.window == "triangular":
        return rule.peak * torch.clamp(1.0 - z, min=0.0)
    if rule.window == "arctan":
        return rule.peak / (1.0 + z * z)
    if rule.window == "fast-sigmoid":
        return rule.peak / ((1.0 + z) * (1.0 + z))
    power = torch.exp(-z)
    if rule.window == "sigmoid":
        return (4.0 * rule.peak) * power / ((1.0 + power) * (1.0 + power))
    return rule.peak * power
