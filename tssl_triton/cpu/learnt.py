"""Time constants and thresholds that are learnt: what a step of the neuron reads of them, and the error of each.

A constant is a weight: u[t] = alpha v[t-1] + i[t] weights v[t-1] by alpha, and i[t] = beta i[t-1] + y[t] / tau_syn
both its terms by tau_syn. With e = dL/dy, as for any weight, the sums over time are ::

    dL/dtau_mem   = sum dL/du[t] v[t-1] / tau_mem^2
    dL/dtau_syn   = sum e[t] (i[t-1] - y[t]) / tau_syn
    dL/dthreshold = -sum c[t]  -  sum s[t] dL/dv[t]          the second with reset by subtraction

c[t] is the part of dL/du[t] that comes of crossing the threshold at t, by the learning rule (docs/mathematics.md), and
dL/dv[t] = alpha delta[t+1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import Surrogate

CONSTANTS = ("tau_mem", "tau_syn", "threshold")
"""What can be learnt, in the order of the rows of a tensor of constants."""


class LearntParameters(NamedTuple):
    """The constants of `LIFParameters` with a row ``(N,)`` for each that can be learnt."""

    tau_mem: Tensor
    tau_syn: Tensor
    threshold: Tensor
    alpha: Tensor
    beta: Tensor
    inv_tau_syn: Tensor
    reset: str
    max_slope: float
    warmup: str
    variant: str


Neuron = LIFParameters | LearntParameters


def neuron(params: LIFParameters, constants: Sequence[Tensor] | None) -> Neuron:
    """``params``, their numbers replaced by the three rows of ``constants`` where there are such."""
    if constants is None:
        return params
    tau_mem, tau_syn, threshold = constants
    inv_tau_syn = 1.0 / tau_syn
    alpha, beta = 1.0 - 1.0 / tau_mem, 1.0 - inv_tau_syn
    options = params.reset, params.max_slope, params.warmup, params.variant
    return LearntParameters(tau_mem, tau_syn, threshold, alpha, beta, inv_tau_syn, *options)


class Step(NamedTuple):
    """A step on the way back, rows ``(N,)``."""

    current_before: Tensor
    """Synaptic current i[t-1]."""
    membrane_before: Tensor
    """Membrane potential v[t-1]."""
    weighted: Tensor
    """Weighted input y[t]."""
    fired: Tensor
    """Whether s[t] = 1."""
    emitted: Tensor
    """dL/du[t]."""
    crossing: Tensor
    """The part c[t] of it."""
    delta_after: Tensor
    """delta[t+1]."""
    grad_current: Tensor
    """e[t]."""


def constant_errors(p: Neuron, rule: Surrogate | None, synapse: bool, step: Step) -> tuple[Tensor, Tensor, Tensor]:
    """What step t adds to the sums of tau_mem, tau_syn and the threshold, the factors 1/tau left out."""
    of_tau_mem = step.emitted * step.membrane_before
    of_tau_syn = step.grad_current * (step.current_before - step.weighted if synapse else 0.0)
    of_threshold = -step.crossing
    if p.reset == "subtract" and _takes_error_through_reset(p, rule):
        of_threshold = of_threshold - torch.where(step.fired, p.alpha * step.delta_after, 0.0)
    return of_tau_mem, of_tau_syn, of_threshold


def _takes_error_through_reset(p: Neuron, rule: Surrogate | None) -> bool:
    """Whether the learning rule follows what a reset takes from later membranes at all."""
    if rule is not None:
        return rule.reset_gradient != "none"
    return p.warmup != "always" and p.variant != "no-intra"


def add_errors(p: Neuron, totals: Sequence[Tensor], grad_constants: Sequence[Tensor]) -> None:
    """Add the sums over some steps, with their factors, to the three rows of ``grad_constants``."""
    factors = 1.0 / (p.tau_mem * p.tau_mem), 1.0 / p.tau_syn, 1.0
    for row, (total, factor) in enumerate(zip(totals, factors, strict=True)):
        grad_constants[row].add_(total * factor)
