"""A layer with feedback, y[t] = x[t] + V s[t-1], as operators.

Time cannot be fused: V s[t-1] has to be known before step t. Forward alternates a product and one step of the neurons,
which is a run of their kernel or loop with T = 1. Backward takes the steps in reverse. The error of a spike comes from
the loss and, through V, from the next step, G[t] = dL/ds[t] + V^T e[t+1]; one step of the learning rule turns it into
e[t], with (delta, e) carried as between the windows of a long run.

For backward are kept: y, the packed spikes, the state before every `WINDOW` steps, and V. The states in between are
recomputed from y, one window at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tssl_triton.kernels.layout import WINDOW, arithmetic_dtype, cdiv, word_count, word_dtype

from . import devices, settings
from .autocast import set_autocast
from .neuron import walk_back
from .registration import operator
from .settings import Neuron
from .spike_trains import pack, unpack

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@operator
def recurrent_forward(
    external_input: Tensor,
    weight: Tensor,
    constants: Tensor | None,
    state: Tensor | None,
    previous_spikes: Tensor | None,
    neuron: str,
    steps: int,
    keep: bool,
) -> Outputs:
    """Spikes ``(T, B, H)``, packed spikes, y, the state before each window ``(*, 3, B, H)``, the state after the last.

    Args:
        external_input: x, ``(T, B, H)``, or ``(1, B, H)`` where one serves all ``steps``.
        weight: V, ``(H, H)``.
        constants: learnt constants ``(3, B, H)``, or None.
        state: ``(3, B, H)``; None is at rest.
        previous_spikes: spikes of the step before the first, ``(B, H)``; None for none.
        neuron: a string of `tssl_triton.operators.settings`.
        keep: whether backward follows; the second to fourth result are empty otherwise.
    """
    given, rows = settings.read(neuron), None if constants is None else constants.contiguous()
    external_input = external_input.contiguous()
    transposed = weight.to(external_input.dtype).t()
    spikes, words, kept_y, states, final = _outputs(external_input, steps, keep)
    if not spikes.numel():
        return spikes, words, kept_y, states, final
    now = torch.zeros_like(final) if state is None else state
    previous = torch.zeros_like(external_input[0])
    if previous_spikes is not None:
        previous = previous_spikes.to(external_input.dtype)
    with set_autocast(external_input.device.type, None):
        for t in range(steps):
            y = kept_y[t] if keep else torch.empty_like(external_input[0])
            torch.addmm(external_input[t if len(external_input) > 1 else 0], previous, transposed, out=y)
            if keep and t % WINDOW == 0:
                states[t // WINDOW].copy_(now)
            now = _one_step(y[None], now, spikes[t : t + 1], given, rows)
            previous = spikes[t]
    final.copy_(now)
    if keep:
        words = pack(spikes, words.dtype)
    return spikes, words, kept_y, states, final


def _one_step(y: Tensor, state: Tensor, spikes: Tensor, neuron: Neuron, constants: Tensor | None) -> Tensor:
    """Fill ``spikes (1, B, H)`` from ``y (1, B, H)`` and return the state after them."""
    after = torch.empty_like(state)
    run = devices.launchers(y.device).lif_forward
    run(y, spikes, None, None, state.contiguous(), after, params=neuron.params, synapse=True, constants=constants)
    return after


@recurrent_forward.register_fake
def _(external_input: Tensor, *others: Any) -> Outputs:
    *_, steps, keep = others
    return _outputs(external_input.contiguous(), steps, keep)


def _outputs(external_input: Tensor, steps: int, keep: bool) -> Outputs:
    batch, hidden = external_input.shape[1:]
    state_dtype = arithmetic_dtype(external_input.dtype)
    new = external_input.new_empty
    return (
        new((steps, batch, hidden)),
        new((word_count(steps) if keep else 0, batch, hidden), dtype=word_dtype(steps)),
        new((steps if keep else 0, batch, hidden)),
        new((cdiv(steps, WINDOW) if keep else 0, 3, batch, hidden), dtype=state_dtype),
        new((3, batch, hidden), dtype=state_dtype),
    )


@operator
def recurrent_backward(
    grad_spikes: Tensor,
    y: Tensor,
    states: Tensor,
    words: Tensor,
    weight: Tensor,
    constants: Tensor | None,
    previous_spikes: Tensor | None,
    neuron: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of y ``(T, B, H)``, of V, and of the constants ``(3, B, H)``; the last is 0 where none are learnt."""
    given, rows = settings.read(neuron), None if constants is None else constants.contiguous()
    y, states = y.contiguous(), states.contiguous()
    grad_y = torch.empty_like(y)
    grad_weight = torch.zeros_like(weight)
    grad_constants = states.new_zeros(states.shape[1:])
    steps = len(y)
    if not y.numel():
        return grad_y, grad_weight, grad_constants
    spikes = unpack(words.contiguous(), steps, y.dtype)
    dense_weight = weight.to(y.dtype)
    # The second bit of a word of one step says whether the neuron fires at any step, which warm-up "silent" asks.
    marks = spikes.to(torch.uint8)
    if given.params.warmup == "silent" and given.rule.surrogate_gradient is None:
        marks += 2 * marks.amax(0)
    carry = states.new_zeros((2, *y.shape[1:]))
    options: dict[str, Any] = {"synapse": True, "carry": carry}
    if rows is not None:
        options |= {"constants": rows, "grad_constants": grad_constants}
    with set_autocast(y.device.type, None):
        for t in reversed(range(steps)):
            if t + 1 == steps or t % WINDOW == WINDOW - 1:
                before_each = _states_of_window(y, t // WINDOW, states, given, rows)
            g = grad_spikes[t]
            if t + 1 < steps:
                g = torch.addmm(g, grad_y[t + 1], dense_weight)
            step = slice(t, t + 1)
            kept = y[step], marks[step], None, before_each[t % WINDOW]
            walk_back(g[None].contiguous(), *kept, grad_y[step], given, **options)
        first = torch.zeros_like(spikes[:1]) if previous_spikes is None else previous_spikes.to(y.dtype)[None]
        previous = torch.cat([first, spikes[:-1]])
        grad_weight = (grad_y.flatten(0, 1).t() @ previous.flatten(0, 1)).to(weight.dtype)
    return grad_y, grad_weight, grad_constants


def _states_of_window(y: Tensor, number: int, states: Tensor, neuron: Neuron, constants: Tensor | None) -> list[Tensor]:
    """The states before each step of a window, recomputed from the one before its first step."""
    found, spikes = [states[number]], torch.empty_like(y[:1])
    for t in range(number * WINDOW, min((number + 1) * WINDOW, len(y)) - 1):
        found.append(_one_step(y[t : t + 1], found[-1], spikes, neuron, constants))
    return found


@recurrent_backward.register_fake
def _(
    grad_spikes: Tensor, y: Tensor, states: Tensor, words: Tensor, weight: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    y, states = y.contiguous(), states.contiguous()
    return torch.empty_like(y), torch.empty_like(weight), states.new_empty(states.shape[1:])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    external_input, weight, constants, _, previous_spikes, ctx.neuron, _, _ = inputs
    _, words, y, states, _ = output
    ctx.save_for_backward(y, states, words, weight, constants, previous_spikes)
    ctx.static, ctx.learns = len(external_input) < len(y), constants is not None
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grad_spikes: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad_spikes is None:
        return (None,) * 8
    y, states, words, weight, constants, previous_spikes = ctx.saved_tensors
    given = grad_spikes.contiguous(), y, states, words, weight, constants, previous_spikes
    grad_y, grad_weight, grad_constants = recurrent_backward(*given, ctx.neuron)
    # The gradient of one input for all steps is the sum of theirs, added up in float32.
    grad_input = grad_y.sum(0, keepdim=True, dtype=grad_constants.dtype).to(grad_y.dtype) if ctx.static else grad_y
    return (grad_input, grad_weight, grad_constants if ctx.learns else None, *[None] * 5)


recurrent_forward.register_autograd(_gradient, setup_context=_setup)
