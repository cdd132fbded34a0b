"""What the package is measured against: the same recurrence and gradient, written in eager PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tssl_triton.parameters import LIFParameters

Steps = Sequence[Tensor]


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
        spikes, potentials, rises, traces = ctx.saved
        deltas = errors_in_linear_time(ctx.params, spikes, potentials, rises, grad_spikes)
        return through_synapse(ctx.params, potentials, traces, grad_spikes, deltas), None


class DenseLIF(EagerLIF):
    """The same with the paper's table phi(k, m) spelled out for every neuron: O(T^2) time and memory."""

    @staticmethod
    def backward(ctx: Any, grad_spikes: Tensor) -> tuple[Tensor, None]:
        spikes, potentials, rises, traces = ctx.saved
        deltas = errors_by_table(ctx.params, spikes, potentials, rises, grad_spikes)
        return through_synapse(ctx.params, potentials, traces, grad_spikes, deltas), None


def errors_in_linear_time(p: LIFParameters, spikes: Steps, potentials: Steps, rises: Steps, grad: Tensor) -> Steps:
    """delta = dL/du of each step, by one carry per neuron."""
    delta = torch.zeros_like(grad[0])
    deltas = []
    for t in reversed(range(len(spikes))):
        kappa = (1 / rises[t]).clamp(0, p.max_slope)
        fired = kappa * (grad[t] + potentials[t] / p.tau_mem * delta)
        delta = torch.where(spikes[t] > 0, fired, p.alpha * delta)
        deltas.append(delta)
    return deltas[::-1]


def errors_by_table(p: LIFParameters, spikes: Steps, potentials: Steps, rises: Steps, grad: Tensor) -> Steps:
    """delta = dL/du of each step, eqs. (11)-(14): ``sum_k phi(k, m) dL/ds[k]``."""
    steps, shape = len(spikes), grad.shape[1:]
    neurons = grad[0].numel()
    # Column T stands for "never fires again" and stays zero.
    phi = grad.new_zeros(steps, steps + 1, neurons)
    following = torch.full((neurons,), steps, device=grad.device)
    for m in reversed(range(steps)):
        fires, u = spikes[m].flatten() > 0, potentials[m].flatten()
        kappa = (1 / rises[m].flatten()).clamp(0, p.max_slope)
        next_column = phi.gather(1, following.expand(steps, 1, neurons)).squeeze(1)
        column = next_column * kappa * u / p.tau_mem * p.alpha ** (following - m - 1)
        column[m] += kappa
        phi[:, m] = torch.where(fires, column, p.alpha ** (following - m) * next_column)
        following = torch.where(fires, m, following)
    deltas = torch.einsum("kmn,kn->mn", phi[:, :steps], grad.flatten(1))
    return list(deltas.unflatten(1, shape))


def through_synapse(p: LIFParameters, potentials: Steps, traces: Steps, grad: Tensor, deltas: Steps) -> Tensor:
    """dL/dy: warm-up in place of delta where a neuron has not fired lately, then the synapse's transpose."""
    e = torch.zeros_like(grad[0])
    grads = []
    for t in reversed(range(len(deltas))):
        sigma = torch.sigmoid(((potentials[t] - p.threshold) / 0.2).clamp(-8, 8))
        warm = grad[t] * sigma * (1 - sigma) / 0.2
        emitted = torch.where(traces[t] < 0.25 / p.tau_syn, warm, deltas[t])
        e = p.beta * e + emitted / p.tau_syn
        grads.append(e)
    return torch.stack(grads[::-1])


def eager_lif(current: Tensor, params: LIFParameters) -> Tensor:
    """Spikes ``(T, B, *)`` of ``current``, with the TSSL-BP gradient."""
    return EagerLIF.apply(current, params)


def dense_lif(current: Tensor, params: LIFParameters) -> Tensor:
    """The same spikes and gradient, by way of the table phi."""
    return DenseLIF.apply(current, params)
