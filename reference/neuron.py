"""Leaky integrate-and-fire neuron with a first-order synapse, one line per equation.

    i[t] = beta i[t-1] + y[t] / tau_syn      synaptic current, eq. (3)
    u[t] = alpha v[t-1] + i[t]               membrane potential before the reset, eq. (4)
    s[t] = 1 if u[t] > threshold else 0      spike, eq. (5)
    v[t] = u[t] (1 - s[t])                   membrane at rest after the step, reset to zero
         = u[t] - threshold s[t]             the same, reset by subtraction
    a[t] = beta a[t-1] + s[t] / tau_syn      the neuron's own postsynaptic current (PSC), eq. (3)

with ``alpha = 1 - 1/tau_mem`` and ``beta = 1 - 1/tau_syn``; time constants are in time steps.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Reset = Literal["zero", "subtract"]


class State(NamedTuple):
    """What a neuron carries from one step to the next, each of the shape of one step, ``(B, *features)``."""

    current: Array
    rest: Array
    psc: Array


class Trace(NamedTuple):
    """Everything a forward run passed through; arrays are ``(T, B, *features)``."""

    current: Array
    """Synaptic current i."""
    membrane: Array
    """Membrane potential u, before the reset."""
    rest: Array
    """Membrane potential v, after the reset."""
    spikes: Array
    """Spikes s, 0 or 1."""
    psc: Array
    """The neuron's own postsynaptic current a."""
    initial: State
    """State before the first step."""
    state: State
    """State after the last step, ready for the next window."""


def lif_forward(
    y: ArrayLike,
    *,
    tau_mem: float,
    tau_syn: float,
    threshold: float,
    reset: Reset = "zero",
    synapse: bool = True,
    state: tuple[ArrayLike, ArrayLike, ArrayLike] | None = None,
) -> Trace:
    """Run the neuron over all time steps.

    Args:
        y: weighted input, ``(T, B, *features)``; with ``synapse=False`` it is the current i itself.
        tau_mem: membrane time constant, time steps.
        tau_syn: synaptic time constant, time steps.
        threshold: a neuron fires where u is strictly above it.
        reset: ``"zero"`` or ``"subtract"``.
        synapse: whether ``y`` still has to pass the synapse.
        state: (i, v, a) before the first step, each of the shape of one step; zeros if not given.

    Raises:
        ValueError: if there is no time step, the reset is unknown or a state's shape is not that of a step.
    """
    y = with_time_axis("y", y)
    check_option("reset", reset, ("zero", "subtract"))
    alpha, beta = 1 - 1 / tau_mem, 1 - 1 / tau_syn

    initial = _initial_state(state, y.shape[1:])
    i, v, a = initial
    steps = []
    for y_t in y:
        i = beta * i + y_t / tau_syn if synapse else y_t
        u = alpha * v + i
        s = (u > threshold).astype(np.float64)
        v = u * (1 - s) if reset == "zero" else u - threshold * s
        a = beta * a + s / tau_syn
        steps.append((i, u, v, s, a))

    current, membrane, rest, spikes, own_psc = (np.stack(series) for series in zip(*steps, strict=True))
    return Trace(current, membrane, rest, spikes, own_psc, initial, State(i, v, a))


def psc(spikes: ArrayLike, tau_syn: float, initial: ArrayLike | None = None) -> Array:
    """Postsynaptic current a of a spike train, ``(T, *)`` to ``(T, *)``: eq. (3) with spikes as the input.

    ``initial`` is the current before the first step, ``(*)``; zeros if not given.
    """
    spikes = with_time_axis("spikes", spikes)
    beta = 1 - 1 / tau_syn
    a = np.zeros(spikes.shape[1:]) if initial is None else np.asarray(initial, dtype=np.float64)
    currents = []
    for s_t in spikes:
        a = beta * a + s_t / tau_syn
        currents.append(a)
    return np.stack(currents)


def with_time_axis(name: str, values: ArrayLike) -> Array:
    """``values`` in float64, checked to have at least one time step."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim < 1 or array.shape[0] < 1:
        raise ValueError(f"{name} must be (T, *) with at least one time step, got shape {array.shape}")
    return array


def check_option(name: str, value: str, accepted: tuple[str, ...]) -> None:
    """Raise ValueError unless ``value`` is one of ``accepted``."""
    if value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, accepted))}, got {value!r}")


def _initial_state(state: tuple[ArrayLike, ArrayLike, ArrayLike] | None, shape: tuple[int, ...]) -> State:
    if state is None:
        return State(np.zeros(shape), np.zeros(shape), np.zeros(shape))
    arrays = State(*(np.asarray(part, dtype=np.float64) for part in state))
    for part, array in zip(State._fields, arrays, strict=True):
        if array.shape != shape:
            raise ValueError(f"state's {part} must have the shape of one step, {shape}, got {array.shape}")
    return arrays
