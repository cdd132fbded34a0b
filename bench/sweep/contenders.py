"""Alternatives to this package: the same recurrence in eager PyTorch, and other packages' neurons.

Each takes a layer's currents ``(T, B, *)`` to spikes, with the constants of `LIFParameters` and reset to zero, set up
as its documentation recommends. Only ``plain`` and ``dense`` compute the same gradient as this package; the others
train with a surrogate gradient (`Contender.differs`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from tssl_triton import LIFParameters, lif
from tssl_triton.rules import RULES

Steps = Sequence[Tensor]
Neurons = Callable[[Tensor], Tensor]
"""A layer of neurons without weights: currents ``(T, B, *)`` to spikes ``(T, B, *)``."""

OURS = "tssl-triton"


@dataclass(frozen=True)
class Contender:
    """One implementation of a layer of spiking neurons.

    Args:
        name: in tables.
        make: neurons for constants and a learning rule, which only this package's neurons use.
        differs: how its computation differs from this package's; empty if it does not.
        longest: most time steps that it is run with; None for any.
        bytes_out: whether spikes are one-byte values, without gradient or product; timed only as ``lif``, inference.
    """

    name: str
    make: Callable[[LIFParameters, str], Neurons]
    differs: str = ""
    longest: int | None = None
    bytes_out: bool = False


def _ours(params: LIFParameters, rule: str, dtype: torch.dtype | None = None) -> Neurons:
    return lambda current: lif(current, params, rule=rule, dtype=dtype)


def _eager(params: LIFParameters, rule: str, deltas: Callable[..., Steps]) -> Neurons:
    return lambda current: EagerLIF.apply(current, params, deltas)


def _spikingjelly(params: LIFParameters, rule: str, synapse: bool = False) -> Neurons:
    activation = "spikingjelly.activation_based"
    functional, layer, neuron = (import_module(f"{activation}.{name}") for name in ("functional", "layer", "neuron"))
    layers = [neuron.LIFNode(float(params.tau_mem), decay_input=False, v_threshold=params.threshold, step_mode="m")]
    if synapse:
        layers.insert(0, layer.SynapseFilter(float(params.tau_syn), step_mode="m"))
    network = torch.nn.Sequential(*layers)

    def forward(current: Tensor) -> Tensor:
        functional.reset_net(network)
        return network(current)

    return forward


def _spikingjelly_compiled(params: LIFParameters, rule: str) -> Neurons:
    functional = import_module("spikingjelly.activation_based.functional")
    surrogate = import_module("spikingjelly.activation_based.surrogate")
    constants = float(params.tau_mem), False, params.threshold, 0.0, surrogate.Sigmoid()

    def forward(current: Tensor) -> Tensor:
        return functional.lif_multi_step(current, torch.zeros_like(current[0]), *constants)[0]

    return torch.compile(forward)


def _snntorch(params: LIFParameters, rule: str) -> Neurons:
    snntorch = import_module("snntorch")
    node = snntorch.Synaptic(alpha=params.beta, beta=params.alpha, threshold=params.threshold, reset_mechanism="zero")

    def forward(current: Tensor) -> Tensor:
        if node.threshold.device != current.device:
            node.to(current.device)
        synapse, membrane = node.reset_mem()
        spikes = []
        for y in current:
            spike, synapse, membrane = node(y, synapse, membrane)
            spikes.append(spike)
        return torch.stack(spikes)

    return forward


def _norse(params: LIFParameters, rule: str) -> Neurons:
    norse = import_module("norse.torch")
    per_second = 1000.0  # its time step is a millisecond
    constants = norse.LIFParameters(
        tau_syn_inv=torch.tensor(per_second / params.tau_syn),
        tau_mem_inv=torch.tensor(per_second / params.tau_mem),
        v_th=torch.tensor(params.threshold),
    )
    node = norse.LIF(constants)
    return lambda current: node(current)[0]


class EagerLIF(torch.autograd.Function):
    """`tssl_triton.lif` with default options, as Python loops over time; ``deltas`` computes dL/du of each step."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, params: LIFParameters, deltas: Callable[..., Steps]) -> Tensor:
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
        ctx.params, ctx.deltas = params, deltas
        ctx.saved = spikes, potentials, rises, traces
        return torch.stack(spikes)

    @staticmethod
    def backward(ctx: Any, grad_spikes: Tensor) -> tuple[Tensor, None, None]:
        spikes, potentials, rises, traces = ctx.saved
        deltas = ctx.deltas(ctx.params, spikes, potentials, rises, grad_spikes)
        return through_synapse(ctx.params, potentials, traces, grad_spikes, deltas), None, None


def deltas_in_linear_time(p: LIFParameters, spikes: Steps, potentials: Steps, rises: Steps, grad: Tensor) -> Steps:
    """delta = dL/du of each step, in O(T)."""
    delta = torch.zeros_like(grad[0])
    deltas = []
    for t in reversed(range(len(spikes))):
        kappa = (1 / rises[t]).clamp(0, p.max_slope)
        fired = kappa * (grad[t] + potentials[t] / p.tau_mem * delta)
        delta = torch.where(spikes[t] > 0, fired, p.alpha * delta)
        deltas.append(delta)
    return deltas[::-1]


def deltas_by_table(p: LIFParameters, spikes: Steps, potentials: Steps, rises: Steps, grad: Tensor) -> Steps:
    """delta = dL/du of each step by the paper's table, ``sum_k phi(k, m) dL/ds[k]``, eqs. (11)-(14): O(T^2)."""
    steps, shape = len(spikes), grad.shape[1:]
    neurons = grad[0].numel()
    # Column T, "never fires again", is zero.
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
    """dL/dy: delta, or the warm-up surrogate where a neuron has not fired lately, through the transposed synapse."""
    e = torch.zeros_like(grad[0])
    grads = []
    for t in reversed(range(len(deltas))):
        sigma = torch.sigmoid(((potentials[t] - p.threshold) / 0.2).clamp(-8, 8))
        warm = grad[t] * sigma * (1 - sigma) / 0.2
        emitted = torch.where(traces[t] < 0.25 / p.tau_syn, warm, deltas[t])
        e = p.beta * e + emitted / p.tau_syn
        grads.append(e)
    return torch.stack(grads[::-1])


OTHER_SYNAPSE = "synapse not scaled by 1/tau_syn; surrogate gradient"

CONTENDERS: dict[str, Contender] = {
    each.name: each
    for each in (
        Contender(OURS, _ours),
        Contender(f"{OURS}, bool", partial(_ours, dtype=torch.bool), bytes_out=True),
        Contender("plain", partial(_eager, deltas=deltas_in_linear_time)),
        Contender("dense", partial(_eager, deltas=deltas_by_table), longest=100),
        Contender("spikingjelly", _spikingjelly, "no synapse; surrogate gradient"),
        Contender("spikingjelly+synapse", partial(_spikingjelly, synapse=True), "surrogate gradient"),
        Contender("spikingjelly+compile", _spikingjelly_compiled, "no synapse; surrogate gradient", longest=32),
        Contender("snntorch", _snntorch, OTHER_SYNAPSE),
        Contender("norse", _norse, OTHER_SYNAPSE),
    )
}


def available(names: list[str]) -> tuple[list[Contender], list[str]]:
    """Importable contenders of these names, and a line for each other."""
    found, missing = [], []
    for name in names:
        try:
            CONTENDERS[name].make(LIFParameters(), RULES[0])
        except ImportError as error:
            missing.append(f"no rows for {name}: {error}; pip install -e '.[peers]'")
        else:
            found.append(CONTENDERS[name])
    return found, missing
