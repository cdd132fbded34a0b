"""One time step in PyTorch: the neuron, the learning rules, and learnable constants.

This is the CPU's only mathematics. `tssl_triton.cpu.neuron` runs it over time, compiled or eagerly, and
`tssl_triton.inspection.replay` step by step. Rows are tensors ``(N,)``, or of any shape in eager PyTorch.
The equations of TSSL-BP are those of `tssl_triton.kernels.neuron`, those of the surrogate rules (STBP and SLAYER) those
of `tssl_triton.kernels.surrogate`.

Learnable constants are weights: u[t] = alpha v[t-1] + i[t] weights v[t-1] by alpha, and i[t] = beta i[t-1] + y[t] /
tau_syn weights both terms by tau_syn. With e = dL/dy the gradients are sums over time, as for any weight ::

    dL/dtau_mem   = sum dL/du[t] v[t-1] / tau_mem^2
    dL/dtau_syn   = sum e[t] (i[t-1] - y[t]) / tau_syn
    dL/dthreshold = -sum c[t]  -  sum s[t] dL/dv[t]          the second term only with reset="subtract"

c[t] is the part of dL/du[t] that results from crossing the threshold at t, under the learning rule
(docs/mathematics.md), and dL/dv[t] = alpha delta[t+1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import Surrogate

SURROGATE_WIDTH = 0.2  # supplement 2.3: width of the sigmoid whose slope warms up silent neurons
SURROGATE_CLIP = 8.0  # the released program clips the sigmoid's argument to +-8


class LearntParameters(NamedTuple):
    """The constants of `LIFParameters`, the learnable ones as tensors with one value per neuron."""

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
    """``params``, with tau_mem, tau_syn and threshold from the three rows of ``constants`` where given."""
    if constants is None:
        return params
    tau_mem, tau_syn, threshold = constants
    inv_tau_syn = 1.0 / tau_syn
    alpha, beta = 1.0 - 1.0 / tau_mem, 1.0 - inv_tau_syn
    options = params.reset, params.max_slope, params.warmup, params.variant
    return LearntParameters(tau_mem, tau_syn, threshold, alpha, beta, inv_tau_syn, *options)


# --- the neuron -------------------------------------------------------------------------------------------------


def charged(p: Neuron, synapse: bool, i: Tensor, v: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Synaptic current i[t], eq. (3), and membrane potential u[t], eq. (4), from i[t-1], v[t-1] and y[t]."""
    i = filtered(p, i, y) if synapse else y
    return i, p.alpha * v + i


def after_reset(p: Neuron, u: Tensor, fired: Tensor) -> Tensor:
    """v[t]: u[t] after the reset of the neurons that fired."""
    return torch.where(fired, u - p.threshold if p.reset == "subtract" else 0.0, u)


def filtered(p: Neuron, before: Tensor, x: Tensor) -> Tensor:
    """One step of the synaptic filter: of y or of spikes forward in time, of the error backward."""
    return p.beta * before + x * p.inv_tau_syn


def quiet(p: Neuron, a: Tensor) -> Tensor:
    """Where the neuron's own PSC a[t] is so small that ``warmup="psc"`` takes over."""
    return a < 0.25 * p.inv_tau_syn


# --- TSSL-BP ----------------------------------------------------------------------------------------------------


def tssl_error(
    p: Neuron, u: Tensor, du: Tensor, fired: Tensor, warm: Tensor, g: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor]:
    """TSSL-BP, eqs. (11)-(14): delta[t] from delta[t+1], and the error that step t emits.

    The emitted error is delta[t], except where warm-up or ``variant="paper"`` replaces it.
    """
    rise = torch.clamp(du, min=1.0 / p.max_slope)
    if p.warmup == "off":
        kappa = 1.0 / rise
    else:
        power = torch.exp(-torch.clamp((u - p.threshold).abs() * (1.0 / SURROGATE_WIDTH), max=SURROGATE_CLIP))
        if p.warmup == "psc":
            # A spike ends warm-up: each step needs either kappa or the sigmoid, so one division serves both.
            kappa = inverse = 1.0 / torch.where(fired, rise, 1.0 + power)
        else:
            kappa, inverse = 1.0 / rise, 1.0 / (1.0 + power)
        # The sigmoid's slope, sigma (1 - sigma) / width, is the same on both sides of the threshold.
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
    """The part of the emitted error that results from crossing the threshold: all except the leak of silent steps."""
    if p.warmup == "always":
        return emitted
    return torch.where(fired if p.warmup == "off" else fired | warm, emitted, 0.0)


# --- surrogate rules --------------------------------------------------------------------------------------------


def membrane_error(
    rule: Surrogate, p: Neuron, u: Tensor, fired: Tensor, g: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor]:
    """delta[t] = dL/du[t] from u[t], the spike, G[t] = dL/ds[t] and delta[t+1]; and its part from crossing the
    threshold."""
    after = p.alpha * delta  # dL/dv[t]
    if rule.reset_gradient == "full":
        g = g - (u if p.reset == "zero" else p.threshold) * after
    if rule.reset_gradient != "none" and p.reset == "zero":
        after = torch.where(fired, 0.0, after)
    crossing = slope(rule, u - p.threshold) * g
    return crossing + after, crossing


def slope(rule: Surrogate, x: Tensor) -> Tensor:
    """The surrogate ds/du at distance x from the threshold; ``rule.peak`` at x = 0."""
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


# --- learnable constants ----------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One step of backward, rows ``(N,)``."""

    current_before: Tensor  # synaptic current i[t-1]
    membrane_before: Tensor  # membrane potential v[t-1]
    weighted: Tensor  # weighted input y[t]
    fired: Tensor  # whether s[t] = 1
    emitted: Tensor  # dL/du[t]
    crossing: Tensor  # c[t], the part of dL/du[t] from crossing the threshold
    delta_after: Tensor  # delta[t+1]
    grad_current: Tensor  # e[t]


def constant_errors(p: Neuron, rule: Surrogate | None, synapse: bool, step: Step) -> tuple[Tensor, Tensor, Tensor]:
    """The terms of step t in the sums for tau_mem, tau_syn and threshold, without the factors 1/tau."""
    of_tau_mem = step.emitted * step.membrane_before
    of_tau_syn = step.grad_current * (step.current_before - step.weighted if synapse else 0.0)
    of_threshold = -step.crossing
    if p.reset == "subtract" and _differentiates_reset(p, rule):
        of_threshold = of_threshold - torch.where(step.fired, p.alpha * step.delta_after, 0.0)
    return of_tau_mem, of_tau_syn, of_threshold


def _differentiates_reset(p: Neuron, rule: Surrogate | None) -> bool:
    """Whether the learning rule propagates errors of later membrane potentials through the reset."""
    if rule is not None:
        return rule.reset_gradient != "none"
    return p.warmup != "always" and p.variant != "no-intra"


def add_errors(p: Neuron, totals: Sequence[Tensor], grad_constants: Sequence[Tensor]) -> None:
    """Add sums over some steps, times their factors, to the three rows of ``grad_constants``."""
    factors = 1.0 / (p.tau_mem * p.tau_mem), 1.0 / p.tau_syn, 1.0
    for row, (total, factor) in enumerate(zip(totals, factors, strict=True)):
        grad_constants[row].add_(total * factor)
