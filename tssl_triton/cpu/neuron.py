"""Neurons on a CPU: windows of at most `WINDOW` time steps, and runs of several windows.

A window function computes its steps one by one for all neurons. `tssl_triton.cpu.codegen` turns it into a single
vectorised C++ loop that keeps membrane and synapse in registers, like the Triton kernels. Longer runs call the same
compiled window repeatedly, so the time to compile does not depend on T; one compilation serves every number of neurons.
Without a C++ compiler the same functions run as eager PyTorch.

Tensors are ``(T, *)`` with dense rows in one memory order; the caller allocates outputs. Windows take lists of rows
``(N,)`` and write rows in place. A state is three rows: synaptic current i, membrane potential v and postsynaptic
current a. Learnable constants are three rows too: tau_mem, tau_syn and threshold.

A run of one window from rest, the usual case in training, is prepared once for each size, type and setting; later calls
pass addresses only.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tssl_triton.kernels.layout import WINDOW, WORD, arithmetic_dtype
from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import Surrogate

from .arguments import Argument, Rows, Signature, all_rows, as_tensors, flat, signature
from .compiler import compiled
from .loop import Call, Loop
from .steps import (
    Step,
    add_errors,
    after_reset,
    charged,
    constant_errors,
    crossing_error,
    filtered,
    membrane_error,
    neuron,
    quiet,
    tssl_error,
)

Steps = Sequence[Tensor]
Types = tuple[torch.dtype | None, ...]


class WindowSettings(NamedTuple):
    """What a compiled window depends on besides the signatures of its arguments."""

    params: LIFParameters = LIFParameters()
    synapse: bool = True
    rule: Surrogate | None = None  # None is TSSL-BP
    static: bool = False  # backward: one input serves all steps


# --- windows ----------------------------------------------------------------------------------------------------


def _forward_window(
    settings: WindowSettings,
    currents: Steps,
    spikes: Steps | None,
    word: Steps | None,
    bit: Tensor | None,
    state: Steps | None,
    new_state: Steps | None,
    constants: Steps | None,
) -> None:
    """Equations (3)-(5); writes spikes, the state after the window, and the window's bits from ``bit`` of the word."""
    p = neuron(settings.params, constants)
    i, v, a = _start(state, currents[0])
    bits = torch.zeros_like(i, dtype=torch.int32)
    for k, current in enumerate(currents):
        i, u = charged(p, settings.synapse, i, v, current.to(i.dtype))
        fired = u > p.threshold
        s = fired.to(i.dtype)
        v = after_reset(p, u, fired)
        if spikes is not None:
            spikes[k].copy_(s if spikes[k].is_floating_point() else fired.to(torch.int32))
        if word is not None:
            bits = bits | (fired.to(torch.int32) << k)
        if new_state is not None:
            a = filtered(p, a, s)
    if word is not None:
        word[0].copy_(bits if bit is None else torch.where(bit == 0, bits, word[0] | (bits << bit)))
    if new_state is not None:
        for row, value in zip(new_state, (i, v, a), strict=True):
            row.copy_(value)


def _backward_window(
    settings: WindowSettings,
    grad_spikes: Steps,
    currents: Steps,
    word: Steps,
    bit: Tensor | None,
    any_spike: Steps | None,
    state: Steps | None,
    carry: Steps | None,
    grad_currents: Steps,
    constants: Steps | None,
    grad_constants: Steps | None,
) -> None:
    """Replays a window, then walks it back by the learning rule; ``carry`` holds (delta, e) of the following step.

    Adds the errors of learnable ``constants`` to ``grad_constants``, and those of a static input, if there is a carry,
    to ``grad_currents``.
    """
    p = neuron(settings.params, constants)
    i, v, a = _start(state, currents[0])

    # Replay from the input and the packed spikes.
    bits = word[0].to(torch.int32) if bit is None else word[0] >> bit
    replay = []
    for k in range(len(grad_spikes)):
        y = currents[0 if settings.static else k].to(i.dtype)
        before = i, v
        i, u = charged(p, settings.synapse, i, v, y)
        du = u - v  # computed here: on the way back it doubles the loop's time
        fired = (bits & (1 << k)) != 0
        v = after_reset(p, u, fired)
        a = filtered(p, a, fired.to(i.dtype))
        replay.append((y, before, u, du, fired, quiet(p, a)))

    # Backward, with the following step's error in one carry per neuron.
    silent = any_spike[0] == 0 if any_spike is not None else None
    delta, e = (carry[0], carry[1]) if carry is not None else (torch.zeros_like(i), torch.zeros_like(i))
    total = grad_currents[0].to(i.dtype) if carry is not None and settings.static else torch.zeros_like(i)
    constant_sums = [torch.zeros_like(i)] * 3 if constants is not None else []
    for k in reversed(range(len(grad_spikes))):
        y, (i, v), u, du, fired, below = replay[k]
        g, delta_after = grad_spikes[k].to(i.dtype), delta
        if settings.rule is None:
            warm = silent if silent is not None else below
            delta, emitted = tssl_error(p, u, du, fired, warm, g, delta)
            crossing = crossing_error(p, fired, warm, emitted) if constants is not None else emitted
        else:
            delta, crossing = membrane_error(settings.rule, p, u, fired, g, delta)
            emitted = delta
        e = filtered(p, e, emitted) if settings.synapse else emitted
        if constants is not None:
            step = Step(i, v, y, fired, emitted, crossing, delta_after, e)
            errors = constant_errors(p, settings.rule, settings.synapse, step)
            constant_sums = [sums + error for sums, error in zip(constant_sums, errors, strict=True)]
        if settings.static:
            total = total + e
        else:
            grad_currents[k].copy_(e)
    if settings.static:
        grad_currents[0].copy_(total)
    if grad_constants is not None:
        add_errors(p, constant_sums, grad_constants)
    if carry is not None:
        carry[0].copy_(delta)
        carry[1].copy_(e)


def _filter_window(settings: WindowSettings, inputs: Steps, state: Steps | None, outputs: Steps) -> None:
    """The synaptic filter ``a = beta a + s / tau_syn``; reads ``state`` and leaves the last step's a in it."""
    a = _start(None, inputs[0])[0] if state is None else state[0]
    for s, output in zip(inputs, outputs, strict=True):
        a = filtered(settings.params, a, s.to(a.dtype))
        output.copy_(a)
    if state is not None:
        state[0].copy_(a)


def _unpack_window(settings: WindowSettings, word: Steps, bit: Tensor, spikes: Steps) -> None:
    """Spikes from their bits, which begin at ``bit`` of the word."""
    bits = word[0].to(torch.int32) >> bit
    for k, spike in enumerate(spikes):
        spike.copy_((bits >> k) & 1)


def _start(state: Steps | None, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if state is not None:
        return state[0], state[1], state[2]
    zero = torch.zeros_like(like, dtype=arithmetic_dtype(like.dtype))
    return zero, zero, zero


# --- runs -------------------------------------------------------------------------------------------------------


def lif_forward(
    current: Tensor,
    spikes: Tensor | None,
    words: Tensor | None,
    checkpoints: Tensor | None,
    state: Tensor | None,
    new_state: Tensor | None,
    *,
    params: LIFParameters,
    synapse: bool,
    constants: Tensor | None = None,
    steps: int | None = None,
) -> None:
    """Write ``spikes (T, *)``, packed ``words``, ``checkpoints`` and ``new_state (3, *)`` from ``current``.

    Args:
        current: ``(T, *)``, or ``(1, *)`` if one input serves all steps.
        spikes, words, checkpoints, new_state: outputs; None is not written.
        state: ``(3, *)`` before the first step; None is a neuron at rest.
        params, synapse: the neuron.
        constants: learnable constants ``(3, *)``, which replace those of ``params``.
        steps: T; needed if ``spikes`` is None.
    """
    steps = steps or (current if spikes is None else spikes).shape[0]
    if steps <= WINDOW and state is None and new_state is None:
        tensors = current, spikes, words, constants
        sizes = steps, current.shape[0], current.numel()
        call = _forward_call(*sizes, _types(tensors), params, synapse, os.environ.get("TSSL_CPU"))
        if call is not None:
            make(call, tensors)
            return
    stride = 1 if current.shape[0] == steps else 0
    state = _zeros(3, current) if state is None else state
    before = all_rows(state)
    for t in range(0, steps, WINDOW):
        n = min(WINDOW, steps - t)
        after = all_rows(new_state) if t + n == steps else _checkpoint(checkpoints, t + n)
        after = after or all_rows(torch.empty_like(state))
        _run(
            _forward_window,
            WindowSettings(params, synapse),
            Rows(current, t * stride, n, stride),
            None if spikes is None else Rows(spikes, t, n),
            None if words is None else Rows(words, t // WORD, 1),
            t % WORD,
            before,
            after,
            all_rows(constants),
        )
        before = after


@functools.lru_cache(maxsize=256)
def _forward_call(
    steps: int, rows: int, numel: int, types: Types, params: LIFParameters, synapse: bool, mode: str | None
) -> Call | None:
    """A prepared forward run of one window from rest, with current, spikes, words and constants.

    None where eager PyTorch is to run; ``mode``, the environment variable ``TSSL_CPU``, has a say in that.
    """
    current, spikes, words, constants = types
    n = numel // rows
    arguments = (
        Rows(torch.empty(rows, n, dtype=current, device="meta"), 0, steps, 1 if rows == steps else 0),
        *(_example(steps, n, spikes), _example(1, n, words), None, None, None, _example(3, n, constants)),
    )
    return _prepared(_forward_window, WindowSettings(params, synapse), arguments)


def lif_backward(
    grad_spikes: Tensor,
    current: Tensor,
    words: Tensor,
    checkpoints: Tensor | None,
    state: Tensor | None,
    grad_current: Tensor,
    *,
    params: LIFParameters,
    synapse: bool,
    rule: Surrogate | None = None,
    constants: Tensor | None = None,
    grad_constants: Tensor | None = None,
    carry: Tensor | None = None,
) -> None:
    """Write ``grad_current``, shaped like ``current``, from ``grad_spikes (T, *)`` and what forward kept.

    Args:
        grad_spikes: dL/ds, ``(T, *)``.
        current, words, checkpoints, state: as in the forward call.
        grad_current: the output dL/dy, summed over time for a static input; may be ``current`` itself.
        params, synapse, constants: as in the forward call.
        rule: a surrogate rule; None is TSSL-BP.
        grad_constants: output ``(3, *)``, the gradients of learnable constants.
        carry: ``(2, *)`` for a run that is part of a longer one: (delta, e) of the step after it, replaced by those of
            its first step. Gradients of constants are then added to ``grad_constants``.
    """
    steps, static = grad_spikes.shape[0], current.shape[0] < grad_spikes.shape[0]
    looks_ahead = rule is None and params.warmup == "silent"
    if grad_constants is not None and carry is None:
        grad_constants.zero_()  # each window adds to it
    if steps <= WINDOW and state is None and carry is None:
        any_spike = words if looks_ahead else None
        tensors = grad_spikes, current, words, any_spike, grad_current, constants, grad_constants
        sizes = steps, current.shape[0], current.numel()
        call = _backward_call(*sizes, _types(tensors), params, synapse, rule, os.environ.get("TSSL_CPU"))
        if call is not None:
            make(call, tensors)
            return
    any_spike = functools.reduce(torch.bitwise_or, flat(words))[None] if looks_ahead else None
    errors = all_rows(_zeros(2, current) if carry is None else carry)
    # Sums over windows are kept in full precision; grad_current may be a 16-bit tensor.
    total = _zeros(1, current) if static else grad_current
    for t in reversed(range(0, steps, WINDOW)):
        n = min(WINDOW, steps - t)
        before = _checkpoint(checkpoints, t) if t else all_rows(_zeros(3, current) if state is None else state)
        _run(
            _backward_window,
            WindowSettings(params, synapse, rule, static),
            Rows(grad_spikes, t, n),
            all_rows(current) if static else Rows(current, t, n),
            Rows(words, t // WORD, 1),
            t % WORD,
            all_rows(any_spike),
            before,
            errors,
            all_rows(total) if static else Rows(grad_current, t, n),
            all_rows(constants),
            all_rows(grad_constants),
        )
    if static:
        flat(grad_current).copy_(total)


@functools.lru_cache(maxsize=256)
def _backward_call(
    steps: int,
    rows: int,
    numel: int,
    types: Types,
    params: LIFParameters,
    synapse: bool,
    rule: Surrogate | None,
    mode: str | None,
) -> Call | None:
    """A prepared backward run of one window from rest, with tensors in the order of the window's arguments."""
    grad_spikes, current, words, any_spike, grad_current, constants, grad_constants = types
    n = numel // rows
    arguments = (
        *(_example(steps, n, grad_spikes), _example(rows, n, current)),
        *(_example(1, n, words), None, _example(1, n, any_spike), None, None),
        *(_example(rows, n, grad_current), _example(3, n, constants), _example(3, n, grad_constants)),
    )
    return _prepared(_backward_window, WindowSettings(params, synapse, rule, rows < steps), arguments)


# One loop serves all rules; on a GPU the surrogate rules have a separate kernel with this name.
surrogate_backward = lif_backward


def psc(
    inputs: Tensor, outputs: Tensor, state: Tensor | None, new_state: Tensor | None, *, tau_syn: float, reverse: bool
) -> None:
    """Filter ``inputs (T, *)`` with the synapse, forward in time or, with ``reverse``, backward (the transpose).

    A ``state (1, *)`` of None is 0; a ``new_state (1, *)`` of None is not written.
    """
    steps, carried = inputs.shape[0], None
    if steps <= WINDOW and state is None and new_state is None:
        types = inputs.dtype, outputs.dtype
        call = _filter_call(steps, inputs.numel(), types, tau_syn, reverse, os.environ.get("TSSL_CPU"))
        if call is not None:
            make(call, (inputs, outputs))
            return
    else:
        carried = _zeros(1, inputs) if new_state is None else flat(new_state).zero_()
        if state is not None:
            carried.copy_(flat(state))
    for t in range(0, steps, WINDOW):
        first, step = (steps - 1 - t, -1) if reverse else (t, 1)
        read, written = (Rows(x, first, min(WINDOW, steps - t), step) for x in (inputs, outputs))
        _run(_filter_window, _filter_settings(tau_syn), read, all_rows(carried), written)


@functools.lru_cache(maxsize=256)
def _filter_call(steps: int, numel: int, types: Types, tau_syn: float, reverse: bool, mode: str | None) -> Call | None:
    """`psc` for one window from rest, prepared, with inputs and outputs."""
    first, step = (steps - 1, -1) if reverse else (0, 1)
    tensors = (torch.empty(steps, numel // steps, dtype=dtype, device="meta") for dtype in types)
    inputs, outputs = (Rows(tensor, first, steps, step) for tensor in tensors)
    return _prepared(_filter_window, _filter_settings(tau_syn), (inputs, None, outputs))


@functools.cache
def _filter_settings(tau_syn: float) -> WindowSettings:
    return WindowSettings(LIFParameters(tau_syn=tau_syn))


def pack(spikes: Tensor, words: Tensor) -> None:
    """Write the bits of ``spikes (T, *)`` to ``words``."""
    words = flat(words).zero_()
    for t, row in enumerate(flat(spikes)):
        words[t // WORD] |= (row != 0).to(words.dtype) << (t % WORD)


def unpack(words: Tensor, spikes: Tensor) -> None:
    """Write ``spikes (T, *)`` from the bits in ``words``."""
    steps = spikes.shape[0]
    for t in range(0, steps, WINDOW):
        arguments = Rows(words, t // WORD, 1), t % WORD, Rows(spikes, t, min(WINDOW, steps - t))
        _run(_unpack_window, WindowSettings(), *arguments)


def _checkpoint(checkpoints: Tensor | None, t: int) -> Rows | None:
    """The saved state at the start of window ``t // WINDOW``, which is not the first."""
    return None if checkpoints is None else Rows(checkpoints, 3 * (t // WINDOW - 1), 3)


def _zeros(rows: int, like: Tensor) -> Tensor:
    shape = rows, like.numel() // like.shape[0]
    return torch.zeros(shape, dtype=arithmetic_dtype(like.dtype), device=like.device)


# --- calls ------------------------------------------------------------------------------------------------------


def _run(window: Callable[..., None], settings: WindowSettings, *arguments: Argument) -> None:
    """Call ``window`` compiled, or eagerly where there is no compiler."""
    call = _prepared(window, settings, arguments)
    if call is not None:
        make(call, [argument.tensor for argument in arguments if isinstance(argument, Rows)])
    else:
        window(settings, *as_tensors(arguments))


def _prepared(window: Callable[..., None], settings: WindowSettings, arguments: Sequence[Argument]) -> Call | None:
    """A call of the window with such arguments; None where there is no compiler."""
    loop = compiled(_loop, window, settings, tuple(map(signature, arguments)))
    return None if loop is None else Call.of(loop, arguments)


def make(call: Call, tensors: Sequence[Tensor | None]) -> None:
    """Make a call with its tensors, on as many of PyTorch's threads as the work occupies."""
    window, neurons, threads, addresses, places = call
    if threads > 1:
        threads = min(threads, torch.get_num_threads())
    window(neurons, threads, addresses(*[x.data_ptr() for x in tensors if x is not None]), places)


@functools.cache
def _loop(window: Callable[..., None], settings: WindowSettings, signatures: tuple[Signature, ...]) -> Loop:
    """The window compiled for arguments of such signatures."""
    return Loop(functools.partial(window, settings), signatures)


def _types(tensors: Sequence[Tensor | None]) -> Types:
    return tuple([None if x is None else x.dtype for x in tensors])


def _example(rows: int, neurons: int, dtype: torch.dtype | None) -> Rows | None:
    """An argument without memory, to prepare a call with; None for no dtype."""
    return None if dtype is None else Rows(torch.empty(rows, neurons, dtype=dtype, device="meta"), 0, rows)
