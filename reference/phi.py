"""The paper's gradient: how the membrane potential at one spike acts on the output at every later step.

A spike's time t_m depends on the membrane that reached the threshold: with u rising in a straight line from
v[t_m - 1] to u[t_m], a membrane higher by du makes the spike earlier, dt_m/du = -1 / (u[t_m] - v[t_m - 1]).
Its absolute value, bounded, is ``kappa``. An earlier spike then acts in two ways, eqs. (11)-(14), on the
PSC a[k] at each step k >= m:

inter-neuron, phi1(k, m) = da[k]/dt_m dt_m/du[m]
    The PSC that this very spike leaves behind. The kernel eps(n) = beta^n / tau_syn has slope -eps / tau_syn;
    as in the authors' released program the factor 1/tau_syn is left to the learning rate, so
    phi1(k, m) = kappa[m] eps(k - m).

intra-neuron, phi2(k, m) = phi(k, p) du[p]/dt_m dt_m/du[m]
    The neuron's next spike p (m < p <= k), whose membrane u[p] still lacks what the reset at m took away.
    The reset removed r from the membrane (r = u[m] for reset to zero, the threshold for subtraction), so it
    takes r alpha^(p - m) away from u[p]. Were the spike a step later it would take r alpha^(p - m - 1), which
    is r/tau_mem alpha^(p - m - 1) more: du[p]/dt_m = -(r / tau_mem) alpha^(p - m - 1).

phi = phi1 + phi2 where the neuron fires again by step k, phi1 where it does not, and 0 for k < m. In each
term the signs of the two time derivatives cancel, so all is written with kappa >= 0. The error is summed over
the whole table: dL/du[m] = sum_{k >= m} phi(k, m) dL/da[k].

What stands where there is no spike at m is the ``variant``: in the paper's text phi(k, m) = 0; in the
released program the membrane at m reaches the next spike p through the leak,
phi(k, m) = alpha^(p - m) phi(k, p). Two more variants leave a path out, to see what it contributes:
``"no-intra"`` is the released program without phi2; ``"no-leak"`` cuts the membrane's memory of the error at
silent steps, so that phi(k, m) = 0 at them and a spike's phi2 reaches a next spike only if that is at m + 1.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .neuron import Array, Reset, Trace, check_option, with_time_axis

WarmUp = Literal["psc", "silent", "off", "always"]
Variant = Literal["released", "paper", "no-intra", "no-leak"]

WARMUP_WIDTH = 0.2
"""Width of the sigmoid whose slope is the warm-up gradient, in units of membrane potential."""
WARMUP_CLIP = 8.0
"""Bound on the sigmoid's argument."""


def lif_backward(
    trace: Trace,
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
) -> Array:
    """Gradient of the loss with respect to the neuron's input, given ``grad_spikes`` = dL/ds.

    The loss here is a function of the spikes, so the table's row k says how the *spike* s[k] depends on u[m]:
    it is the paper's phi with the PSC kernel eps replaced by the unit impulse.

    Args:
        trace: what `lif_forward` returned.
        grad_spikes: dL/ds, ``(T, B, *features)``.
        max_slope: upper bound of kappa.
        warmup: where the surrogate gradient takes over: ``"psc"`` where the neuron's own PSC is below
            ``1/(4 tau_syn)``, ``"silent"`` for neurons with no spike in the whole window, ``"off"`` nowhere,
            ``"always"`` everywhere.
        variant: ``"released"``, ``"paper"``, ``"no-intra"`` or ``"no-leak"``, see the module's text.
        synapse: as in the forward run.

    Returns:
        dL/dy, ``(T, B, *features)``; with ``synapse=False`` it is dL/di.
    """
    grad_spikes = with_time_axis("grad_spikes", grad_spikes)
    grad_current = _grad_current(
        trace,
        grad_spikes,
        np.eye(len(grad_spikes)),
        tau_mem=tau_mem,
        tau_syn=tau_syn,
        threshold=threshold,
        reset=reset,
        max_slope=max_slope,
        warmup=warmup,
        variant=variant,
    )
    return psc_backward(grad_current, tau_syn) if synapse else grad_current


def lif_backward_from_psc(
    trace: Trace,
    grad_psc: ArrayLike,
    *,
    tau_mem: float,
    tau_syn: float,
    threshold: float,
    reset: Reset = "zero",
    max_slope: float = 8.0,
    warmup: WarmUp = "psc",
    variant: Variant = "released",
    synapse: bool = True,
) -> Array:
    """As `lif_backward`, for ``grad_psc`` = dL/da: here phi is the paper's own table, word for word.

    Equal to ``lif_backward(trace, psc_backward(grad_psc, tau_syn), ...)`` up to rounding.
    """
    grad_psc = with_time_axis("grad_psc", grad_psc)
    grad_current = _grad_current(
        trace,
        grad_psc,
        psc_kernel(len(grad_psc), tau_syn),
        tau_mem=tau_mem,
        tau_syn=tau_syn,
        threshold=threshold,
        reset=reset,
        max_slope=max_slope,
        warmup=warmup,
        variant=variant,
    )
    return psc_backward(grad_current, tau_syn) if synapse else grad_current


def phi_table(
    trace: Trace,
    kernel: Array,
    *,
    tau_mem: float,
    threshold: float,
    reset: Reset,
    max_slope: float,
    variant: Variant,
) -> Array:
    """The table phi(k, m), ``(T, T, B, *features)``; it takes 8 T^2 bytes per neuron.

    Args:
        trace: what `lif_forward` returned.
        kernel: ``(T, T)``, ``kernel[k, m]`` is what a spike at step m leaves at step k: `psc_kernel` for the
            paper's phi, the identity matrix for the effect on the spikes themselves.
        variant: what stands where there is no spike at m, or is left out, see the module's text.
    """
    check_option("reset", reset, ("zero", "subtract"))
    check_option("variant", variant, ("released", "paper", "no-intra", "no-leak"))
    T, *shape = trace.spikes.shape
    spikes, membrane = trace.spikes.reshape(T, -1), trace.membrane.reshape(T, -1)
    kappa = _spike_time_slope(trace, max_slope).reshape(T, -1)
    neurons = np.arange(spikes.shape[1])
    alpha = 1 - 1 / tau_mem

    # Column T stands for "the neuron never fires again" and stays zero.
    phi = np.zeros((T, T + 1, len(neurons)))
    next_spike = np.full(len(neurons), T)
    for m in reversed(range(T)):
        phi_next = phi[:, next_spike, neurons]  # (T, N): column p, which may differ from neuron to neuron
        fires = spikes[m] == 1

        removed = membrane[m] if reset == "zero" else threshold
        # The exponent is p - m - 1 >= 0, also in the column T where phi_next is zero.
        later_reset = removed / tau_mem * alpha ** (next_spike - m - 1)
        inter = kappa[m] * kernel[:, m, None]
        intra = phi_next * later_reset * kappa[m]
        if variant == "no-intra":
            intra = np.zeros_like(phi_next)
        elif variant == "no-leak":
            intra = np.where(next_spike == m + 1, intra, 0.0)
        if variant in ("released", "no-intra"):
            leak = alpha ** (next_spike - m) * phi_next
        else:
            leak = np.zeros_like(phi_next)

        phi[:, m] = np.where(fires, inter + intra, leak)
        next_spike = np.where(fires, m, next_spike)
    return phi[:, :T].reshape(T, T, *shape)


def psc_kernel(T: int, tau_syn: float) -> Array:
    """eps, ``(T, T)``: ``beta^(k - m) / tau_syn`` for k >= m, else 0, so that a[k] = sum_m eps[k, m] s[m]."""
    beta = 1 - 1 / tau_syn
    return np.array([[beta ** (k - m) / tau_syn if k >= m else 0.0 for m in range(T)] for k in range(T)])


def psc_backward(grad_psc: ArrayLike, tau_syn: float) -> Array:
    """Transpose of `psc`, ``(T, *)``: dL/ds[t] = sum_{k >= t} beta^(k - t) / tau_syn dL/da[k]."""
    grad_psc = with_time_axis("grad_psc", grad_psc)
    return np.einsum("kt,k...->t...", psc_kernel(len(grad_psc), tau_syn), grad_psc)


def _grad_current(
    trace: Trace,
    upstream: Array,
    kernel: Array,
    *,
    tau_mem: float,
    tau_syn: float,
    threshold: float,
    reset: Reset,
    max_slope: float,
    warmup: WarmUp,
    variant: Variant,
) -> Array:
    """dL/di = dL/du: the error summed over the table, or the surrogate where the neuron is warming up."""
    if upstream.shape != trace.spikes.shape:
        raise ValueError(f"gradient must have the spikes' shape {trace.spikes.shape}, got {upstream.shape}")
    check_option("warmup", warmup, ("psc", "silent", "off", "always"))
    phi = phi_table(
        trace, kernel, tau_mem=tau_mem, threshold=threshold, reset=reset, max_slope=max_slope, variant=variant
    )
    summed = np.einsum("km...,k...->m...", phi, upstream)

    grad_spikes = np.einsum("km,k...->m...", kernel, upstream)
    surrogate = grad_spikes * _surrogate_slope(trace.membrane, threshold)
    return np.where(warming_up(trace, tau_syn, warmup), surrogate, summed)


def _spike_time_slope(trace: Trace, max_slope: float) -> Array:
    """kappa = -dt_m/du: 1 over the membrane's rise in the step, between 0 and ``max_slope``."""
    before = np.concatenate([trace.initial.rest[None], trace.rest[:-1]])
    rise = trace.membrane - before
    # A membrane that stands still is the limit of a slow rise; one that falls sets no spike's time.
    slope = np.full(rise.shape, max_slope)
    with np.errstate(over="ignore"):  # a denormal rise: the bound below catches it
        np.divide(1.0, rise, out=slope, where=rise != 0)
    return np.clip(slope, 0.0, max_slope)


def warming_up(trace: Trace, tau_syn: float, warmup: WarmUp) -> np.ndarray:
    """Where the surrogate gradient takes over (supplement 2.3), booleans ``(T, B, *features)``."""
    if warmup == "psc":
        return trace.psc < 1 / (4 * tau_syn)
    if warmup == "silent":
        return np.broadcast_to(trace.spikes.sum(axis=0) == 0, trace.spikes.shape)
    return np.full(trace.spikes.shape, warmup == "always")


def _surrogate_slope(membrane: Array, threshold: float) -> Array:
    """Slope of the sigmoid of ``(u - threshold) / 0.2``, its argument clipped to +-8 (supplement 2.3)."""
    x = np.clip((membrane - threshold) / WARMUP_WIDTH, -WARMUP_CLIP, WARMUP_CLIP)
    sigmoid = 1 / (1 + np.exp(-x))
    return sigmoid * (1 - sigmoid) / WARMUP_WIDTH
