"""A layer whose neurons hear one another: y[t] = x[t] + V s[t-1], with x the weighted input from below.

The error of a spike then comes from above and, a step later, from the layer's own neurons:

    G[t] = dL/ds[t] from above + V^T e[t+1]      e = dL/dy
    dL/dV = sum over t of e[t] s[t-1]^T

e[t+1] follows from G[t+1], G[t+2], ... by the neurons' learning rule, so G is found from the last step to the first,
with the whole of the rule's backward each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .neuron import Array, Trace, lif_forward, with_time_axis


class RecurrentGradients(NamedTuple):
    """What `recurrent_backward` returns."""

    feed: Array
    """dL/dx = dL/dy, ``(T, B, H)``."""
    weight: Array
    """dL/dV, ``(H, H)``."""
    spikes: Array
    """G, the error of each spike by all its ways, ``(T, B, H)``."""


def recurrent_forward(
    feed: ArrayLike,
    weight: ArrayLike,
    *,
    state: tuple[ArrayLike, ArrayLike, ArrayLike] | None = None,
    before: ArrayLike | None = None,
    **neuron: Any,
) -> tuple[Trace, Array]:
    """What the neurons passed through, and their input y ``(T, B, H)``.

    Args:
        feed: x, ``(T, B, H)``.
        weight: V, ``(H, H)``: from the neuron of its column to the neuron of its row.
        state: (i, v, a) before the first step, ``(B, H)`` each; zeros if not given.
        before: spikes of the step before the first, ``(B, H)``; zeros if not given.
        neuron: constants of `lif_forward`.
    """
    feed, weight = with_time_axis("feed", feed), np.asarray(weight, dtype=np.float64)
    spikes = np.zeros(feed.shape[1:]) if before is None else np.asarray(before, dtype=np.float64)
    inputs, traces = [], []
    for x in feed:
        y = x + np.einsum("oh,bh->bo", weight, spikes)
        trace = lif_forward(y[None], state=state, **neuron)
        spikes, state = trace.spikes[0], trace.state
        inputs.append(y)
        traces.append(trace)
    current, membrane, rest, fired, psc = (
        np.concatenate([getattr(trace, name) for trace in traces])
        for name in ("current", "membrane", "rest", "spikes", "psc")
    )
    whole = Trace(current, membrane, rest, fired, psc, traces[0].initial, traces[-1].state)
    return whole, np.stack(inputs)


def recurrent_backward(
    trace: Trace,
    weight: ArrayLike,
    grad_spikes: ArrayLike,
    backward: Callable[[Array], Array],
    before: ArrayLike | None = None,
) -> RecurrentGradients:
    """Gradients of the layer, given ``grad_spikes`` = dL/ds from above.

    Args:
        backward: the neurons' rule: dL/dy from dL/ds, both ``(T, B, H)``; `lif_backward` or `surrogate_backward` of
            this trace.
        before: as in the forward run.
    """
    weight = np.asarray(weight, dtype=np.float64)
    total = with_time_axis("grad_spikes", grad_spikes).copy()
    for t in reversed(range(len(total) - 1)):
        total[t] += np.einsum("oh,bo->bh", weight, backward(total)[t + 1])
    grad_y = backward(total)
    first = np.zeros(trace.spikes.shape[1:]) if before is None else np.asarray(before, dtype=np.float64)
    previous = np.concatenate([first[None], trace.spikes[:-1]])
    return RecurrentGradients(grad_y, np.einsum("tbo,tbh->oh", grad_y, previous), total)
