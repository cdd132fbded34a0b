"""One step of TSSL-BP in PyTorch; `tssl_triton.cpu.neuron` walks time with it.

The equations are those of `tssl_triton.kernels.neuron`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .learnt import Neuron

SURROGATE_WIDTH = 0.2  # supplement 2.3: width of the sigmoid whose slope warms up silent neurons
SURROGATE_CLIP = 8.0  # the released program clips the sigmoid's argument to +-8


def tssl_error(
    p: Neuron, u: Tensor, du: Tensor, fired: Tensor, warm: Tensor, g: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor]:
    """TSSL-BP, eqs. (11)-(14): delta[t] from delta[t+1], and what of it, or of the warm-up, step t emits."""
    rise = torch.clamp(du, min=1.0 / p.max_slope)
    if p.warmup == "off":
        kappa = 1.0 / rise
    else:
        power = torch.exp(-torch.clamp((u - p.threshold).abs() * (1.0 / SURROGATE_WIDTH), max=SURROGATE_CLIP))
        if p.warmup == "psc":
            # A spike ends warm-up: a step needs kappa or the sigmoid, and one division serves.
            kappa = inverse = 1.0 / torch.where(fired, rise, 1.0 + power)
        else:
            kappa, inverse = 1.0 / rise, 1.0 / (1.0 + power)
        # The sigmoid's slope, sigma (1 - sigma) / width, the same on both sides of the threshold.
        slope = (1.0 / SURROGATE_WIDTH) * power * (inverse * inverse)
    kappa = torch.where(du < 0, 0.0, kappa)
    rho = (u if p.reset == "zero" else p.threshold) * (1.0 / p.tau_mem)
    error = g if p.variant == "no-intra" else g + rho * delta
    leaked = 0.0 if p.variant == "no-leak" else p.alpha * delta
    delta = torch.where(fired, kappa * error, leaked)
    emitted = torch.where(fired, delta, 0.0) if p.variant == "paper" else delta
    if p.warmup != "off":
        emitted = g * slope if p.warmup == "always" else torch.where(warm, g * slope, emitted)
    return delta, emitted


def crossing_error(p: Neuron, fired: Tensor, warm: Tensor, emitted: Tensor) -> Tensor:
    """The part of what a step emits that comes of crossing the threshold: all but what a silent step hands on."""
    if p.warmup == "always":
        return emitted
    return torch.where(fired if p.warmup == "off" else fired | warm, emitted, 0.0)
