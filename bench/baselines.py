"""What the package is measured against: the same recurrence, written step by step in eager PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tssl_triton.parameters import LIFParameters


class EagerLIF(torch.autograd.Function):
    """`tssl_triton.lif` with default options as one would write it first: a Python loop over time, both ways."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, params: LIFParameters) -> Tensor:
        i = torch.zeros_like(current[0])
        v = torch.zeros_like(current[0])
        a = torch.zeros_like(current[0])
        spikes, potentials, rises, traces = [], [], [], []
        for y in current:
            i = params.beta * i + y / params.tau_syn
            u = params.alpha * v + i
            s = (u > params.threshold).to(u.dtype)
            a = params.beta * a + s / params.tau_syn
            potentials.append(u)
            rises.append(u - v)
            spikes.append(s)
            traces.append(a)
            v = u * (1 - s)
        ctx.params = params
        ctx.saved = spikes, potentials, rises, traces
        return torch.stack(spikes)

    @staticmethod
    def backward(ctx: Any, grad_spikes: Tensor) -> tuple[Tensor, None]:
        params = ctx.params
        spikes, potentials, rises, traces = ctx.saved
        delta = torch.zeros_like(grad_spikes[0])
        e = torch.zeros_like(grad_spikes[0])
        grads = []
        for t in reversed(range(len(spikes))):
            s, u, g = spikes[t], potentials[t], grad_spikes[t]
            kappa = (1 / rises[t]).clamp(0, params.max_slope)
            fired = kappa * (g + u / params.tau_mem * delta)
            delta = torch.where(s > 0, fired, params.alpha * delta)
            sigma = torch.sigmoid(((u - params.threshold) / 0.2).clamp(-8, 8))
            warm = g * sigma * (1 - sigma) / 0.2
            emitted = torch.where(traces[t] < 0.25 / params.tau_syn, warm, delta)
            e = params.beta * e + emitted / params.tau_syn
            grads.append(e)
        return torch.stack(grads[::-1]), None


def eager_lif(current: Tensor, params: LIFParameters) -> Tensor:
    """Spikes ``(T, B, *)`` of ``current``, with the TSSL-BP gradient."""
    return EagerLIF.apply(current, params)
