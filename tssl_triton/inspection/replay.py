"""Membrane potentials, currents and errors of neurons over time, for plots and analysis.

Layers do not store these: their kernels keep them in registers, and only the weighted input y and packed spikes reach
memory. `membrane_trace` and `error_trace` recompute them from y and the spikes, step by step in plain PyTorch, with
the step of the neuron that layers use on a CPU. The symbols are those of docs/mathematics.md.

The neuron is elementwise: to replay some neurons, pass the y of those neurons alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tssl_triton._checks import check_like, check_sequence
from tssl_triton.cpu.steps import Neuron, after_reset, charged, filtered, membrane_error, neuron, quiet, tssl_error
from tssl_triton.encoding import StaticInput
from tssl_triton.functional import LIFConstants, LIFState, stacked, stacked_constants
from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import TSSL, Rule, checked_rule


class MembraneTrace(NamedTuple):
    """States of neurons over time; each is ``(T, B, *)``, float32 (float64 for a float64 input).

    Args:
        current: synaptic current i[t].
        membrane: membrane potential u[t], before the reset.
        rise: du[t] = u[t] - v[t-1], the rise of the membrane in the step.
        rest: membrane potential v[t], after the reset.
        spikes: spikes s[t], 0 or 1.
        psc: postsynaptic current a[t] that the neuron's own spikes cause.
    """

    current: Tensor
    membrane: Tensor
    rise: Tensor
    rest: Tensor
    spikes: Tensor
    psc: Tensor


class ErrorTrace(NamedTuple):
    """Errors of neurons over time, by their learning rule; each is ``(T, B, *)``.

    Args:
        delta: delta[t] = dL/du[t], the error that is carried back through time.
        emitted: delta'[t], the error that step t passes to the synapse. It equals delta[t], except where the warm-up
            of TSSL-BP or ``variant="paper"`` replaces it.
        grad_current: e[t] = dL/dy[t], the error of the weighted input.
    """

    delta: Tensor
    emitted: Tensor
    grad_current: Tensor


@torch.no_grad()
def membrane_trace(
    y: Tensor | StaticInput,
    params: LIFParameters,
    *,
    state: LIFState | None = None,
    synapse: bool = True,
    spikes: Tensor | None = None,
    learnt: LIFConstants | None = None,
) -> MembraneTrace:
    """Replay neurons from their weighted input, eqs. (3)-(5). ::

        i[t] = beta i[t-1] + y[t] / tau_syn          i[t] = y[t] with synapse=False
        u[t] = alpha v[t-1] + i[t]
        v[t] = u[t] (1 - s[t])                       or u[t] - threshold s[t] with reset="subtract"
        a[t] = beta a[t-1] + s[t] / tau_syn

    Args:
        y: the weighted input ``(T, B, *)``, or a `StaticInput`.
        params: constants of the neurons.
        state: before the first step; None means at rest.
        synapse: as in `tssl_triton.functional.lif`.
        spikes: the spikes ``(T, B, *)`` that a layer computed from this y; the replay then follows them even where
            rounding moves a membrane across the threshold. None: s[t] = [u[t] > threshold].
        learnt: constants that replace those of ``params``, as in `tssl_triton.functional.lif`.

    Raises:
        TypeError, ValueError: if an argument has the wrong rank, dtype, device or shape; the message names it.
    """
    y = check_sequence("y", y.dense() if isinstance(y, StaticInput) else y)
    p = _neuron(params, learnt, y)
    fired = None if spikes is None else check_like("spikes", spikes, tuple(y.shape), y.device) != 0
    dtype = torch.promote_types(y.dtype, torch.float32)
    start = stacked(state, y)
    i, v, a = y.new_zeros((3, *y.shape[1:]), dtype=dtype) if start is None else start
    steps = []
    for t, y_t in enumerate(y.to(dtype)):
        before = v
        i, u = charged(p, synapse, i, v, y_t)
        fires = u > p.threshold if fired is None else fired[t]
        v = after_reset(p, u, fires)
        s = fires.to(dtype)
        a = filtered(p, a, s)
        steps.append((i, u, u - before, v, s, a))
    return MembraneTrace(*map(torch.stack, zip(*steps, strict=True)))


@torch.no_grad()
def error_trace(
    trace: MembraneTrace,
    grad_spikes: Tensor,
    params: LIFParameters,
    rule: Rule | str = "tssl",
    *,
    synapse: bool = True,
    learnt: LIFConstants | None = None,
) -> ErrorTrace:
    """Propagate the error backwards through a `membrane_trace`, by a learning rule. ::

        e[t] = delta'[t] / tau_syn + beta e[t+1]     e[t] = delta'[t] with synapse=False

    docs/mathematics.md defines delta and delta' for each rule; both are 0 after the last step.

    Args:
        trace: of the neurons.
        grad_spikes: G[t] = dL/ds[t], ``(T, B, *)``.
        params: constants of the neurons and of their gradient.
        rule: the learning rule, as in `tssl_triton.functional.lif`.
        synapse: as in `membrane_trace`.
        learnt: as in `membrane_trace`.

    Raises:
        TypeError, ValueError: if an argument has the wrong type, shape or device; the message names it.
    """
    if not isinstance(trace, MembraneTrace):
        raise TypeError(f"trace must be a MembraneTrace, got {type(trace).__name__}")
    membrane = trace.membrane
    p = _neuron(params, learnt, membrane)
    grad = check_like("grad_spikes", grad_spikes, tuple(membrane.shape), membrane.device).to(membrane.dtype)
    surrogate, fired = checked_rule(rule).surrogate_gradient, trace.spikes != 0
    warm = warming_up(trace, params, learnt=learnt)
    delta = e = torch.zeros_like(membrane[0])
    steps = []
    for t in reversed(range(len(membrane))):
        if surrogate is None:
            delta, emitted = tssl_error(p, membrane[t], trace.rise[t], fired[t], warm[t], grad[t], delta)
        else:
            delta, _ = membrane_error(surrogate, p, membrane[t], fired[t], grad[t], delta)
            emitted = delta
        e = filtered(p, e, emitted) if synapse else emitted
        steps.append((delta, emitted, e))
    return ErrorTrace(*map(torch.stack, zip(*reversed(steps), strict=True)))


def warming_up(
    trace: MembraneTrace, params: LIFParameters, rule: Rule | str = "tssl", learnt: LIFConstants | None = None
) -> Tensor:
    """Where the warm-up of TSSL-BP replaces delta, ``(T, B, *)`` bool; nowhere for other rules.

    See ``warmup`` of `LIFParameters`.
    """
    if not isinstance(checked_rule(rule), TSSL) or params.warmup == "off":
        return torch.zeros_like(trace.spikes, dtype=torch.bool)
    if params.warmup == "always":
        return torch.ones_like(trace.spikes, dtype=torch.bool)
    if params.warmup == "silent":
        return (trace.spikes == 0).all(0).expand(trace.spikes.shape)
    return quiet(_neuron(params, learnt, trace.psc), trace.psc)


def _neuron(params: LIFParameters, learnt: LIFConstants | None, like: Tensor) -> Neuron:
    """Constants of the neurons of ``like (T, B, *)``, as the step of the neuron takes them."""
    if not isinstance(params, LIFParameters):
        raise TypeError(f"params must be LIFParameters, got {type(params).__name__}")
    return neuron(params, None if learnt is None else list(stacked_constants(learnt, params, like)))
