"""How the loss depends on a neuron's constants: its two time constants and its threshold, each a float.

Where dL/du[t] is known, by whichever rule, the constants are weights like any other: u[t] = alpha v[t-1] + i[t] weights
v[t-1] by alpha, and i follows from tau_syn by eq. (3). With alpha = 1 - 1/tau_mem

    dL/dtau_mem   = sum over t of dL/du[t] v[t-1] / tau_mem^2
    dL/dtau_syn   = sum over t of dL/du[t] di[t]/dtau_syn

di/dtau_syn is carried forwards: (3), differentiated by tau_syn, with beta = 1 - 1/tau_syn,

    di[t]/dtau_syn = beta di[t-1]/dtau_syn + (i[t-1] - y[t]) / tau_syn^2

The threshold acts twice. A spike comes of u - threshold: what raises u by some amount lowers the threshold by as much.
And reset by subtraction takes the threshold away, v = u - threshold s, so that dv[t]/dthreshold = -s[t].

TSSL-BP: the time t_m of a spike depends on u[m] - threshold, dt_m/dthreshold = -dt_m/du (the membrane rises in a
straight line, whose crossing of the threshold is the spike's time), so a spike's error is the threshold's with the
other sign, and so is that of the warm-up's sigmoid. A silent step crosses nothing: it only hands the next spike's error
on. What the reset at m takes away is missing at the neuron's next spike p by its share alpha^(p - m).

STBP and SLAYER: ds/dthreshold = -f(u), along every path that the rule differentiates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .neuron import Array, Reset, Trace, with_time_axis
from .phi import Variant, WarmUp, lif_backward, warming_up
from .surrogate import ResetGradient, Surrogate, surrogate_backward, surrogate_slope


class ConstantGradients(NamedTuple):
    """dL/dtau_mem, dL/dtau_syn and dL/dthreshold of each neuron, ``(B, *features)``."""

    tau_mem: Array
    tau_syn: Array
    threshold: Array


def lif_constant_gradients(
    trace: Trace,
    y: ArrayLike,
    grad_spikes: ArrayLike,
    *,
    tau_mem: float,
    tau_syn: float,
    threshold: float,
    reset: Reset = "zero",
    max_slope: float = 8.0,
    warmup: WarmUp = "psc",
    variant: Variant = "released",
    synapse: bool = True,
) -> ConstantGradients:
    """Gradients of the constants by TSSL-BP.

    Args:
        trace: what `lif_forward` returned.
        y: what it was given, ``(T, B, *features)``.
        grad_spikes: dL/ds, of the same shape.

    The other arguments are those of `lif_backward`. With ``synapse=False`` the gradient of tau_syn is 0.
    """
    delta = lif_backward(
        trace,
        grad_spikes,
        tau_mem=tau_mem,
        tau_syn=tau_syn,
        threshold=threshold,
        reset=reset,
        max_slope=max_slope,
        warmup=warmup,
        variant=variant,
        synapse=False,
    )
    spikes = trace.spikes == 1
    grad_threshold = -np.where(spikes | warming_up(trace, tau_syn, warmup), delta, 0.0).sum(axis=0)
    if reset == "subtract" and warmup != "always" and variant != "no-intra":
        alpha = 1 - 1 / tau_mem
        T = len(spikes)
        for m in range(T):
            unanswered = spikes[m]  # no spike since m
            for p in range(m + 1, T if variant != "no-leak" else min(m + 2, T)):
                grad_threshold -= np.where(unanswered & spikes[p], alpha ** (p - m) * delta[p], 0.0)
                unanswered = unanswered & ~spikes[p]
    return ConstantGradients(*_of_time_constants(trace, y, delta, tau_mem, tau_syn, synapse), grad_threshold)


def surrogate_constant_gradients(
    trace: Trace,
    y: ArrayLike,
    grad_spikes: ArrayLike,
    *,
    tau_mem: float,
    tau_syn: float,
    threshold: float,
    reset: Reset = "zero",
    surrogate: Surrogate = "rectangular",
    width: float = 1.0,
    scale: float = 1.0,
    reset_gradient: ResetGradient = "full",
    synapse: bool = True,
) -> ConstantGradients:
    """Gradients of the constants by a surrogate rule; arguments as in `surrogate_backward` and above."""
    grad_spikes = with_time_axis("grad_spikes", grad_spikes)
    delta = surrogate_backward(
        trace,
        grad_spikes,
        tau_mem=tau_mem,
        tau_syn=tau_syn,
        threshold=threshold,
        reset=reset,
        surrogate=surrogate,
        width=width,
        scale=scale,
        reset_gradient=reset_gradient,
        synapse=False,
    )
    grad_rest = (1 - 1 / tau_mem) * np.concatenate([delta[1:], np.zeros_like(delta[:1])])  # dL/dv
    grad_total = grad_spikes  # dL/ds, through the reset too where the rule goes that way
    if reset_gradient == "full":
        grad_total = grad_spikes - grad_rest * (trace.membrane if reset == "zero" else threshold)
    slope = scale * surrogate_slope(trace.membrane - threshold, surrogate, width)
    grad_threshold = -(grad_total * slope).sum(axis=0)
    if reset == "subtract" and reset_gradient != "none":
        grad_threshold -= (grad_rest * trace.spikes).sum(axis=0)
    return ConstantGradients(*_of_time_constants(trace, y, delta, tau_mem, tau_syn, synapse), grad_threshold)


def _of_time_constants(
    trace: Trace, y: ArrayLike, delta: Array, tau_mem: float, tau_syn: float, synapse: bool
) -> tuple[Array, Array]:
    """Gradients of tau_mem and tau_syn from ``delta`` = dL/du, ``(T, B, *features)``."""
    before = np.concatenate([trace.initial.rest[None], trace.rest[:-1]])
    grad_tau_mem = (delta * before).sum(axis=0) / tau_mem**2

    grad_tau_syn = np.zeros(delta.shape[1:])
    if synapse:
        beta = 1 - 1 / tau_syn
        i = trace.initial.current
        influence = np.zeros(delta.shape[1:])  # di/dtau_syn
        for t, y_t in enumerate(with_time_axis("y", y)):
            influence = beta * influence + (i - y_t) / tau_syn**2
            grad_tau_syn += delta[t] * influence
            i = trace.current[t]
    return grad_tau_mem, grad_tau_syn
