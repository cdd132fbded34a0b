"""Operators of a layer whose neurons hear one another: y[t] = x[t] + V s[t-1], step by step.

Time cannot be fused: V s[t-1] has to be known before step t. Forward makes a product and a step of the neurons in turn;
a step is a run of the neurons' own kernel or loop with T = 1. Backward takes them in the other order. The error of a
spike comes from above and through V from the step after it, G[t] = dL/ds[t] + V^T e[t+1]; one step of the learning rule
makes e[t] of it, with (delta, e) carried as in a longer window.

For backward the layer keeps y, its spikes as bits, the state before every `WINDOW` steps, and V. The states between are
worked out again from y, a window at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tssl_triton.cpu.learnt import CONSTANTS
from tssl_triton.kernels.layout import WINDOW, arithmetic_dtype, cdiv, word_count, word_dtype

from . import neuron as _ops
from .autocast import Autocast
from .learnt import options
from .registration import operator

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@operator
def recurrent_forward(
    feed: Tensor,
    weight: Tensor,
    constants: Tensor | None,
    state: Tensor | None,
    before: Tensor | None,
    steps: int,
    keep: bool,
    tau_mem: float,
    tau_syn: float,
    threshold: float,
    reset: str,
    max_slope: float,
    warmup: str,
    variant: str,
    window: str = "",
    width: float = 1.0,
    peak: float = 1.0,
    reset_gradient: str = "full",
) -> Outputs:
    """Spikes ``(T, B, H)``, packed spikes, y, the state before each window ``(*, 3, B, H)``, the state after the last.

    Args:
        feed: x, ``(T, B, H)``, or ``(1, B, H)`` where one serves all ``steps``.
        weight: V, ``(H, H)``.
        constants: ``(3, B, H)`` where they are learnt.
        state: ``(3, B, H)``, None at rest.
        before: spikes of the step before the first, ``(B, H)``; None for none.
        keep: whether backward is to follow; what it needs is empty otherwise.
    """
    neurons = _neurons((tau_mem, tau_syn, threshold, reset, max_slope, warmup, variant), constants)
    feed = feed.contiguous()
    back = weight.to(feed.dtype).t()
    spikes, words, kept_y, states, final = _outputs(feed, steps, keep)
    if not spikes.numel():
        return spikes, words, kept_y, states, final
    now = torch.zeros_like(final) if state is None else state
    heard = torch.zeros_like(feed[0]) if before is None else before.to(feed.dtype)
    with Autocast(feed.device.type).again():
        for t in range(steps):
            y = kept_y[t] if keep else torch.empty_like(feed[0])
            torch.addmm(feed[t if len(feed) > 1 else 0], heard, back, out=y)
            if keep and t % WINDOW == 0:
                states[t // WINDOW].copy_(now)
            now = _one_step(y[None], now, spikes[t : t + 1], neurons)
            heard = spikes[t]
    final.copy_(now)
    if keep:
        words = _ops.pack(spikes, words.dtype)
    return spikes, words, kept_y, states, final


def _neurons(settings: tuple[Any, ...], constants: Tensor | None) -> dict[str, Any]:
    """What a kernel or loop is told of the neurons; ``settings`` are those of `LIFParameters`."""
    if constants is None:
        return {"params": _ops.parameters(*settings), "synapse": True, "constants": None}
    rows = constants.contiguous().flatten(1)
    return {"params": options(*settings[len(CONSTANTS) :]), "synapse": True, "constants": rows}


def _one_step(y: Tensor, state: Tensor, spikes: Tensor, neurons: dict[str, Any]) -> Tensor:
    """Fill ``spikes (1, B, H)`` from ``y (1, B, H)``; the state after them."""
    after = torch.empty_like(state)
    _ops.fill_forward(_ops._backend(y.device).lif_forward, y, spikes, None, state, after, **neurons)
    return after


@recurrent_forward.register_fake
def _(
    feed: Tensor,
    weight: Tensor,
    constants: Tensor | None,
    state: Tensor | None,
    before: Tensor | None,
    steps: int,
    keep: bool,
    *_: Any,
) -> Outputs:
    return _outputs(feed.contiguous(), steps, keep)


def _outputs(feed: Tensor, steps: int, keep: bool) -> Outputs:
    batch, hidden = feed.shape[1:]
    state_dtype = arithmetic_dtype(feed.dtype)
    return (
        feed.new_empty((steps, batch, hidden)),
        feed.new_empty((word_count(steps) if keep else 0, batch, hidden), dtype=word_dtype(steps)),
        feed.new_empty((steps if keep else 0, batch, hidden)),
        feed.new_empty((cdiv(steps, WINDOW) if keep else 0, 3, batch, hidden), dtype=state_dtype),
        feed.new_empty((3, batch, hidden), dtype=state_dtype),
    )


@operator
def recurrent_backward(
    grad_spikes: Tensor,
    y: Tensor,
    states: Tensor,
    words: Tensor,
    weight: Tensor,
    constants: Tensor | None,
    before: Tensor | None,
    tau_mem: float,
    tau_syn: float,
    threshold: float,
    reset: str,
    max_slope: float,
    warmup: str,
    variant: str,
    window: str = "",
    width: float = 1.0,
    peak: float = 1.0,
    reset_gradient: str = "full",
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of y ``(T, B, H)``, of V, and of the constants ``(3, B, H)``; the last is 0 where none are learnt."""
    grad_y = torch.empty_like(y)
    grad_weight = torch.zeros_like(weight)
    grad_constants = states.new_zeros(states.shape[1:])
    steps = len(y)
    if not y.numel():
        return grad_y, grad_weight, grad_constants
    neurons = _neurons((tau_mem, tau_syn, threshold, reset, max_slope, warmup, variant), constants)
    sums = None if constants is None else grad_constants.view(3, -1)
    spikes = _ops.unpack(words, steps, y.dtype)
    forth = weight.to(y.dtype)
    # A word of one step says in its second bit whether the neuron fires at any: where warm-up asks, it reads them all.
    marks = spikes.to(torch.uint8)
    if warmup == "silent" and not window:
        marks += 2 * marks.amax(0)
    walk_back = _ops.backward_by(_ops.told_rule(window, width, peak, reset_gradient), y.device)
    no_checkpoints = states.new_empty((0, y[0].numel()))
    carry = states.new_zeros((2, y[0].numel()))
    with Autocast(y.device.type).again():
        for t in reversed(range(steps)):
            if t + 1 == steps or t % WINDOW == WINDOW - 1:
                before_each = _states_of_window(y, t // WINDOW, states, neurons)
            g = grad_spikes[t]
            if t + 1 < steps:
                g = torch.addmm(g, grad_y[t + 1], forth)
            step = slice(t, t + 1)
            kept = y[step], marks[step], no_checkpoints, before_each[t % WINDOW]
            _ops.fill_backward(walk_back, g[None], *kept, grad_y[step], grad_constants=sums, carry=carry, **neurons)
        first = torch.zeros_like(spikes[:1]) if before is None else before.to(y.dtype)[None]
        heard = torch.cat([first, spikes[:-1]])
        grad_weight = (grad_y.flatten(0, 1).t() @ heard.flatten(0, 1)).to(weight.dtype)
    return grad_y, grad_weight, grad_constants


def _states_of_window(y: Tensor, number: int, states: Tensor, neurons: dict[str, Any]) -> list[Tensor]:
    """The states before each step of a window, as forward had them, from the one before its first."""
    found, spikes = [states[number]], torch.empty_like(y[:1])
    for t in range(number * WINDOW, min((number + 1) * WINDOW, len(y)) - 1):
        found.append(_one_step(y[t : t + 1], found[-1], spikes, neurons))
    return found


@recurrent_backward.register_fake
def _(
    grad_spikes: Tensor, y: Tensor, states: Tensor, words: Tensor, weight: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(y), torch.empty_like(weight), states.new_empty(states.shape[1:])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    feed, weight, constants, _state, before, _steps, _keep, *settings = inputs
    _, words, y, states, _ = output
    ctx.save_for_backward(y, states, words, weight, constants, before)
    ctx.settings, ctx.static, ctx.learns = settings, len(feed) < len(y), constants is not None
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grad_spikes: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad_spikes is None:
        return (None,) * 18
    grad_y, grad_weight, grad_constants = recurrent_backward(
        grad_spikes.contiguous(), *ctx.saved_tensors, *ctx.settings
    )
    # One input for all steps: its gradient is the sum of theirs, added up in float32.
    grad_feed = grad_y.sum(0, keepdim=True, dtype=grad_constants.dtype).to(grad_y.dtype) if ctx.static else grad_y
    return (grad_feed, grad_weight, grad_constants if ctx.learns else None, *[None] * 15)


recurrent_forward.register_autograd(_gradient, setup_context=_setup)
