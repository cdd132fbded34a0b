"""Learning rules that put a slope in place of the spike's derivative: STBP and SLAYER, summed over every pair of steps.

A spike s = [u > threshold] has no derivative that could be learnt from. Surrogate-gradient rules write f(u) for
ds/du, with f a window around the threshold, and differentiate everything else as it stands. The membrane at step m
then acts on the one at a later step k along a single path, through each membrane that is left after a step:

    du[k]/du[m] = product over m <= j < k of alpha dv[j]/du[j]
    dL/du[m]    = sum over k >= m of G[k] f(u[k]) du[k]/du[m]         with G[k] = dL/ds[k]

The rules differ in what they make of dv/du, with v = u (1 - s) for reset to zero, v = u - threshold s by subtraction:

STBP (Wu, Deng, Li, Zhu & Shi, "Spatio-temporal backpropagation for training high-performance spiking neural
networks", Frontiers in Neuroscience 2018): all of it, the reset's own spike included,

    dv/du = 1 - s - u f(u)          reset to zero
          = 1 - threshold f(u)      reset by subtraction

    or, ``reset_gradient="detached"``, with the reset's spike as a constant: 1 - s and 1.

SLAYER (Shrestha & Orchard, "SLAYER: spike layer error reassignment in time", NeurIPS 2018): ``reset_gradient="none"``,
dv/du = 1. Error is reassigned in time by the kernels of synapse and membrane; that a spike resets the membrane, the
refractory response, is left out of it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .neuron import Array, Reset, Trace, check_option, with_time_axis
from .phi import psc_backward

Surrogate = Literal["rectangular", "triangular", "arctan", "sigmoid", "fast-sigmoid", "exponential"]
ResetGradient = Literal["full", "detached", "none"]

SURROGATES = ("rectangular", "triangular", "arctan", "sigmoid", "fast-sigmoid", "exponential")


def surrogate_backward(
    trace: Trace,
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
) -> Array:
    """Gradient of the loss with respect to the neuron's input, given ``grad_spikes`` = dL/ds.

    Args:
        trace: what `lif_forward` returned.
        grad_spikes: dL/ds, ``(T, B, *features)``.
        surrogate: shape of f, see `surrogate_slope`.
        width: its width, in units of membrane potential.
        scale: its area.
        reset_gradient: ``"full"``, ``"detached"`` or ``"none"``: how much of the reset is differentiated.
        synapse: as in the forward run.

    Returns:
        dL/dy, ``(T, B, *features)``; with ``synapse=False`` it is dL/di.
    """
    grad_spikes = with_time_axis("grad_spikes", grad_spikes)
    if grad_spikes.shape != trace.spikes.shape:
        raise ValueError(f"gradient must have the spikes' shape {trace.spikes.shape}, got {grad_spikes.shape}")
    slope = scale * surrogate_slope(trace.membrane - threshold, surrogate, width)
    through = (1 - 1 / tau_mem) * _reset_slope(trace, slope, threshold, reset, reset_gradient)

    T = len(grad_spikes)
    grad_current = np.zeros(grad_spikes.shape)
    for m in range(T):
        influence = np.ones(grad_spikes.shape[1:])  # du[k]/du[m]
        for k in range(m, T):
            grad_current[m] += grad_spikes[k] * slope[k] * influence
            influence = influence * through[k]
    return psc_backward(grad_current, tau_syn) if synapse else grad_current


def surrogate_slope(x: ArrayLike, surrogate: Surrogate, width: float) -> Array:
    """f at the distance ``x = u - threshold``, ``(*)``; each window has unit area. With z = x / width::

    rectangular     1 / width                     where |z| < 1/2, else 0
    triangular      (1 - |z|) / width             where |z| < 1, else 0
    arctan          1 / (pi width (1 + z^2))
    sigmoid         sigma(z) (1 - sigma(z)) / width
    fast-sigmoid    1 / (2 width (1 + |z|)^2)
    exponential     exp(-|z|) / (2 width)
    """
    check_option("surrogate", surrogate, SURROGATES)
    z = np.abs(np.asarray(x, dtype=np.float64)) / width
    if surrogate == "rectangular":
        unit = np.where(z < 0.5, 1.0, 0.0)
    elif surrogate == "triangular":
        unit = np.maximum(0.0, 1 - z)
    elif surrogate == "arctan":
        unit = 1 / (np.pi * (1 + z**2))
    elif surrogate == "sigmoid":
        unit = np.exp(-z) / (1 + np.exp(-z)) ** 2
    elif surrogate == "fast-sigmoid":
        unit = 0.5 / (1 + z) ** 2
    else:
        unit = 0.5 * np.exp(-z)
    return unit / width


def _reset_slope(trace: Trace, slope: Array, threshold: float, reset: Reset, reset_gradient: ResetGradient) -> Array:
    """dv/du, ``(T, B, *features)``."""
    check_option("reset", reset, ("zero", "subtract"))
    check_option("reset_gradient", reset_gradient, ("full", "detached", "none"))
    if reset_gradient == "none":
        return np.ones_like(slope)
    kept = 1 - trace.spikes if reset == "zero" else np.ones_like(slope)
    if reset_gradient == "detached":
        return kept
    return kept - (trace.membrane if reset == "zero" else threshold) * slope
