"""The CPU implementation: one window of time at a time as a fused loop, compiled.

Each function below spells out at most `WINDOW` steps for all neurons. `tssl_triton.cpu.loop` turns it into a single
vectorised pass in C++ that keeps membrane and synapse in registers, as the Triton kernels do. Longer runs call the same
compiled window again and again, so that the cost of compiling does not grow with T; one compilation serves every number
of neurons. Where no C++ compiler is found the same functions run as eager PyTorch, which is said once.

All tensors here are views ``(T, N)`` or ``(N,)`` in memory order; outputs are allocated by the caller. Windows take
time steps as lists of rows: a row is written in place, with no stacking and no copy afterwards. A state is three rows:
synaptic current i, membrane potential v and postsynaptic current a. Constants that are learnt are three rows too:
tau_mem, tau_syn and threshold of each neuron.

"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tssl_triton.kernels.layout import WINDOW, WORD, arithmetic_dtype
from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import Surrogate

from . import compiler as _cpp
from .learnt import Neuron, Step, add_errors, constant_errors, neuron
from .loop import Argument, Call, Kind, Loop, Pooled, Rows, kind
from .sum_pooling import Sizes, SumPool
from .surrogate import membrane_error
from .tssl import crossing_error, tssl_error

Steps = Sequence[Tensor]

Pooling = tuple[SumPool, Sizes]
"""How spikes are pooled, and the sizes of the images that they are."""


_ANY = LIFParameters()  # for windows that no neuron takes part in


class _Recipe(NamedTuple):
    """All that a compiled window depends on besides its tensors; one compilation each."""

    steps: int
    dtype: torch.dtype
    params: LIFParameters
    synapse: bool = True
    static: bool = False
    carried: bool = False
    packed: bool = True
    rule: Surrogate | None = None  # None is TSSL-BP
    learnt: bool = False


# --- the windows ------------------------------------------------------------------------------------------------


def _lif_forward_window(
    recipe: _Recipe,
    currents: Steps,
    state: Steps | None,
    spikes: Steps | None,
    word: Tensor | None,
    bit: Tensor | None,
    new_state: Steps | None,
    constants: Steps | None,
) -> None:
    """Equations (3)-(5) for one window; writes spikes, the state after it, and the word from ``bit`` on."""
    p = neuron(recipe.params, constants)
    i, v, a = _start(state, currents[0])
    bits = torch.zeros_like(i, dtype=torch.int32)
    for k in range(recipe.steps):
        i, u = charged(p, recipe.synapse, i, v, currents[k].to(i.dtype))
        fired = u > p.threshold
        s = fired.to(i.dtype)
        v = after_reset(p, u, fired)
        if spikes is not None:
            spikes[k].copy_(s if spikes[k].is_floating_point() else fired.to(torch.int32))
        if recipe.packed:
            bits = bits | (fired.to(torch.int32) << k)
        if recipe.carried:
            a = filtered(p, a, s)
    if word is not None:
        word.copy_(bits if bit is None else torch.where(bit == 0, bits, word | (bits << bit)))
    if new_state is not None:
        for row, value in enumerate((i, v, a)):
            new_state[row].copy_(value)


def _lif_backward_window(
    recipe: _Recipe,
    grad_spikes: Steps,
    currents: Steps,
    word: Tensor,
    bit: Tensor | None,
    any_spike: Tensor | None,
    state: Steps | None,
    carry: Steps | None,
    grad_currents: Steps,
    constants: Steps | None,
    grad_constants: Steps | None,
) -> None:
    """One window, replayed and walked back by the learning rule; ``carry`` holds (delta, e) of the step after it.

    The errors of learnt ``constants`` are added to ``grad_constants``.
    """
    p = neuron(recipe.params, constants)
    i, v, a = _start(state, currents[0])

    # Forward again, from the saved input and the saved spikes.
    bits = word.to(torch.int32) if bit is None else word >> bit
    replay = []
    for k in range(recipe.steps):
        y = currents[0 if recipe.static else k].to(i.dtype)
        before = i, v
        i, u = charged(p, recipe.synapse, i, v, y)
        du = u - v  # worked out here: on the way back it doubles the loop's time
        fired = (bits & (1 << k)) != 0
        v = after_reset(p, u, fired)
        a = filtered(p, a, fired.to(i.dtype))
        replay.append((y, before, u, du, fired, quiet(p, a)))

    # And back, with the error of the next spike in one carry per neuron.
    silent = any_spike == 0 if any_spike is not None else None
    delta, e = (carry[0], carry[1]) if carry is not None else (torch.zeros_like(i), torch.zeros_like(i))
    total = grad_currents[0].to(i.dtype) if recipe.carried and recipe.static else torch.zeros_like(i)
    constant_sums = [torch.zeros_like(i)] * 3 if recipe.learnt else []
    for k in reversed(range(recipe.steps)):
        y, (i, v), u, du, fired, below = replay[k]
        g, delta_after = grad_spikes[k].to(i.dtype), delta
        if recipe.rule is None:
            warm = silent if silent is not None else below
            delta, emitted = tssl_error(p, u, du, fired, warm, g, delta)
            crossing = crossing_error(p, fired, warm, emitted) if recipe.learnt else emitted
        else:
            delta, crossing = membrane_error(recipe.rule, p, u, fired, g, delta)
            emitted = delta
        e = filtered(p, e, emitted) if recipe.synapse else emitted
        if recipe.learnt:
            step = Step(i, v, y, fired, emitted, crossing, delta_after, e)
            errors = constant_errors(p, recipe.rule, recipe.synapse, step)
            constant_sums = [sums + error for sums, error in zip(constant_sums, errors, strict=True)]
        if recipe.static:
            total = total + e
        else:
            grad_currents[k].copy_(e)
    if recipe.static:
        grad_currents[0].copy_(total)
    if grad_constants is not None:
        add_errors(p, constant_sums, grad_constants)
    if carry is not None:
        carry[0].copy_(delta)
        carry[1].copy_(e)


def _psc_window(recipe: _Recipe, inputs: Steps, state: Steps | None, outputs: Steps) -> None:
    """The synaptic filter for one window, ``a = beta a + s / tau_syn``; ``state`` is read and left at the last step."""
    a = _start(None, inputs[0])[0] if state is None else state[0]
    for k in range(recipe.steps):
        a = filtered(recipe.params, a, inputs[k].to(a.dtype))
        outputs[k].copy_(a)
    if state is not None:
        state[0].copy_(a)


def _unpack_window(recipe: _Recipe, word: Tensor, bit: Tensor, spikes: Steps) -> None:
    """The steps of one window from their bits, which begin at ``bit`` of the word."""
    bits = word.to(torch.int32) >> bit
    for k in range(recipe.steps):
        spikes[k].copy_((bits >> k) & 1)


def _start(state: Steps | None, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if state is not None:
        return state[0], state[1], state[2]
    zero = torch.zeros_like(like, dtype=arithmetic_dtype(like.dtype))
    return zero, zero, zero


# --- one step of a neuron, which `tssl_triton.inspection.replay` takes as well
# ------------------------------------------------


def charged(p: Neuron, synapse: bool, i: Tensor, v: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Synaptic current i[t], eq. (3), and membrane potential u[t], eq. (4), from those of the step before."""
    i = filtered(p, i, y) if synapse else y
    return i, p.alpha * v + i


def after_reset(p: Neuron, u: Tensor, fired: Tensor) -> Tensor:
    """v[t], what a spike leaves of u[t]."""
    return torch.where(fired, u - p.threshold if p.reset == "subtract" else 0.0, u)


def filtered(p: Neuron, before: Tensor, x: Tensor) -> Tensor:
    """One step of the synapse: forwards that of y and of the PSC, backwards that of the error."""
    return p.beta * before + x * p.inv_tau_syn


def quiet(p: Neuron, a: Tensor) -> Tensor:
    """Where the neuron's own PSC says that it has not fired of late, and ``warmup="psc"`` takes over."""
    return a < 0.25 * p.inv_tau_syn


# --- whole runs, window by window -------------------------------------------------------------------------------


def lif_forward(
    current: Tensor,
    spikes: Tensor,
    words: Tensor | None,
    checkpoints: Tensor | None,
    state: Tensor | None,
    new_state: Tensor | None,
    *,
    params: LIFParameters,
    synapse: bool,
    constants: Tensor | None = None,
    pooling: Pooling | None = None,
) -> None:
    """Fill ``spikes (T, N)``, packed ``words``, ``checkpoints`` and ``new_state (3, N)`` from ``current``.

    ``current`` is ``(T, N)``, or ``(1, N)`` where one input serves all steps. ``words``, ``checkpoints`` and
    ``new_state`` may be None: they are not written then. A ``state`` of None is a neuron at rest. Learnt ``constants
    (3, N)`` stand for the numbers of ``params``. With a ``pooling`` the spikes are pooled, ``(T, N')``.
    """
    steps = len(spikes)
    recipe = _Recipe(steps, current.dtype, params, synapse, packed=words is not None, learnt=constants is not None)
    learnt = _all(constants)
    # Where one input serves all steps its row is given for each: the same compiled window serves both.
    stride = 1 if len(current) == steps else 0
    if steps <= WINDOW and state is None and new_state is None:
        _run(_lif_forward_window, recipe, *_forward_rows(current, spikes, words, steps, pooling), learnt)
        return
    state = _zeros(3, current) if state is None else state
    before = _all(state)
    for t in range(0, steps, WINDOW):
        n = min(WINDOW, steps - t)
        after = _all(new_state) if t + n == steps else _checkpoint(checkpoints, t + n)
        if after is None:
            after = _all(torch.empty_like(state))
        _run(
            _lif_forward_window,
            recipe._replace(steps=n, carried=True),
            Rows(current, t * stride, n, stride),
            before,
            _images(spikes, t, n, pooling, written=True),
            None if words is None else words[t // WORD],
            t % WORD,
            after,
            learnt,
        )
        before = after


def lif_backward(
    grad_spikes: Tensor,
    current: Tensor,
    words: Tensor,
    checkpoints: Tensor,
    state: Tensor | None,
    grad_current: Tensor,
    *,
    params: LIFParameters,
    synapse: bool,
    rule: Surrogate | None = None,
    constants: Tensor | None = None,
    grad_constants: Tensor | None = None,
    carry: Tensor | None = None,
    pooling: Pooling | None = None,
) -> None:
    """Fill ``grad_current``, shaped like ``current``, from ``grad_spikes (T, N)`` and what forward kept.

    A ``rule`` of None is TSSL-BP. The gradients of learnt ``constants (3, N)`` are written to ``grad_constants``. A run
    that is one part of a longer one has a ``carry (2, N)``, which holds (delta, e) of the step after it, and then of
    its own first step; gradients of constants are added to what is there. With a ``pooling`` ``grad_spikes (T, N')`` is
    that of the pooled spikes.
    """
    if grad_constants is not None and carry is None:
        grad_constants.zero_()  # each window adds to it
    steps = len(grad_spikes)
    learnt = _all(constants), _all(grad_constants)
    recipe = _Recipe(
        steps, current.dtype, params, synapse, len(current) < steps, rule=rule, learnt=constants is not None
    )
    any_spike = functools.reduce(torch.bitwise_or, words) if rule is None and params.warmup == "silent" else None
    if steps <= WINDOW and state is None and carry is None:
        rows = _backward_rows(grad_spikes, current, words, any_spike, grad_current, pooling)
        _run(_lif_backward_window, recipe, *rows, *learnt)
        return
    errors = _all(_zeros(2, current) if carry is None else carry)
    # A sum over windows is kept at full precision; the caller's tensor may be 16 bits wide.
    total = _zeros(1, current) if recipe.static else grad_current
    first = _all(_zeros(3, current) if state is None else state)
    for t in reversed(range(0, steps, WINDOW)):
        n = min(WINDOW, steps - t)
        _run(
            _lif_backward_window,
            recipe._replace(steps=n, carried=True),
            _images(grad_spikes, t, n, pooling),
            _all(current) if recipe.static else Rows(current, t, n),
            words[t // WORD],
            t % WORD,
            any_spike,
            first if t == 0 else _checkpoint(checkpoints, t),
            errors,
            _all(total) if recipe.static else Rows(grad_current, t, n),
            *learnt,
        )
    if recipe.static:
        grad_current.copy_(total)


# One loop serves all rules; on a GPU the surrogate rules have a kernel of their own, under this name.
surrogate_backward = lif_backward


def psc(
    inputs: Tensor, outputs: Tensor, state: Tensor | None, new_state: Tensor | None, *, tau_syn: float, reverse: bool
) -> None:
    """Filter ``inputs (T, N)`` forwards in time, or backwards (the transpose).

    A ``state (1, N)`` of None is 0; a ``new_state (1, N)`` of None is not written.
    """
    steps, params = len(inputs), _filter(tau_syn)
    carried = None
    if steps > WINDOW or state is not None or new_state is not None:
        carried = _zeros(1, inputs) if new_state is None else new_state.zero_()
        if state is not None:
            carried.copy_(state)
    for t in range(0, steps, WINDOW):
        n = min(WINDOW, steps - t)
        _run(_psc_window, _Recipe(n, inputs.dtype, params), *_filter_rows(inputs, outputs, carried, t, n, reverse))


def _filter_rows(
    inputs: Tensor, outputs: Tensor, carried: Tensor | None, t: int, length: int, reverse: bool
) -> tuple[Argument, ...]:
    first, stride = (len(inputs) - 1 - t, -1) if reverse else (t, 1)
    return Rows(inputs, first, length, stride), _all(carried), Rows(outputs, first, length, stride)


@functools.cache
def _filter(tau_syn: float) -> LIFParameters:
    return LIFParameters(tau_syn=tau_syn)


@functools.lru_cache(maxsize=256)
def filter_call(steps: int, neurons: int, dtype: torch.dtype, tau_syn: float, reverse: bool) -> Call:
    """What `psc` does for a run of one window from rest, as a call of the addresses of input and output."""
    rows = torch.empty(steps, neurons, dtype=dtype, device="meta")
    return _call(
        _psc_window, _Recipe(steps, dtype, _filter(tau_syn)), _filter_rows(rows, rows, None, 0, steps, reverse)
    )


def pack(spikes: Tensor, words: Tensor) -> None:
    """Fill ``words`` with the bits of ``spikes (T, N)``."""
    words.zero_()
    for t, row in enumerate(spikes):
        words[t // WORD] |= (row != 0).to(words.dtype) << (t % WORD)


def unpack(words: Tensor, spikes: Tensor) -> None:
    """Fill ``spikes (T, N)`` from ``words``."""
    for t in range(0, len(spikes), WINDOW):
        n = min(WINDOW, len(spikes) - t)
        recipe = _Recipe(n, spikes.dtype, _ANY)
        _run(_unpack_window, recipe, words[t // WORD], t % WORD, Rows(spikes, t, n))


def _images(tensor: Tensor, first: int, length: int, pooling: Pooling | None, written: bool = False) -> Argument:
    """Rows that may be those of pooled images."""
    return Rows(tensor, first, length) if pooling is None else Pooled(tensor, first, length, written, *pooling)


def _all(tensor: Tensor | None) -> Rows | None:
    """All rows of a tensor ``(R, N)``."""
    return None if tensor is None else Rows(tensor, 0, len(tensor))


def _checkpoint(checkpoints: Tensor | None, t: int) -> Rows | None:
    """The state that window ``t // WINDOW`` starts from, where it is kept; the first window's is not."""
    return None if checkpoints is None else Rows(checkpoints, 3 * (t // WINDOW - 1), 3)


def _zeros(rows: int, like: Tensor) -> Tensor:
    return torch.zeros(rows, like.shape[1], dtype=arithmetic_dtype(like.dtype), device=like.device)


# --- one window, again and again --------------------------------------------------------------------------------


class Single:
    """Runs of one window from rest that differ in nothing but their numbers, as a training loop makes them.

    What `lif_forward` and `lif_backward` find out at each call is found out once here; then a call takes five
    microseconds. Each attribute below is a call that is told of tensors by their addresses.

    Args:
        current: an input of them, ``(T, N)`` or ``(1, N)``; only its shape and type count, as of the next two.
        spikes: what becomes of it, ``(T, N)`` or ``(T, N')`` with ``pooling``, T at most `WINDOW`.
        words: the packed spikes, ``(1, N)``.
        params: constants of the neurons.
        rule: the learning rule; None is TSSL-BP.
        pooling: how spikes are pooled.
    """

    def __init__(
        self,
        current: Tensor,
        spikes: Tensor,
        words: Tensor,
        params: LIFParameters,
        rule: Surrogate | None,
        pooling: Pooling | None,
    ) -> None:
        steps, dtype = spikes.shape[0], current.dtype
        self._tensors, self._pooling = (current, spikes, words), pooling
        self._recipe = _Recipe(steps, dtype, params, static=current.shape[0] < steps, rule=rule)
        self.looks_ahead = rule is None and params.warmup == "silent"

    @functools.cached_property
    def forward(self) -> Call:
        """Of current, spikes and words."""
        return self._forward_call(*self._tensors)

    @functools.cached_property
    def inference(self) -> Call:
        """Of current and spikes."""
        return self._forward_call(*self._tensors[:2], None)

    @functools.cached_property
    def packing(self) -> Call:
        """Of current and words."""
        current, _, words = self._tensors
        return self._forward_call(current, None, words)

    @functools.cached_property
    def backward(self) -> Call:
        """Of the gradient of spikes, current, words, again words where it ``looks_ahead``, and the gradient of current,
        which may be in its place."""
        current, spikes, words = self._tensors
        any_spike = words[0] if self.looks_ahead else None
        rows = _backward_rows(spikes, current, words, any_spike, current, self._pooling)
        return _call(_lif_backward_window, self._recipe, (*rows, None, None))

    def _forward_call(self, current: Tensor, spikes: Tensor | None, words: Tensor | None) -> Call:
        recipe = self._recipe._replace(packed=words is not None, static=False, rule=None)
        rows = _forward_rows(current, spikes, words, recipe.steps, self._pooling)
        return _call(_lif_forward_window, recipe, (*rows, None))


def _call(window: Callable[..., None], recipe: _Recipe, arguments: Sequence[Argument]) -> Call:
    return Call(_loop(window, recipe, arguments), arguments)


def _forward_rows(
    current: Tensor, spikes: Tensor | None, words: Tensor | None, steps: int, pooling: Pooling | None
) -> tuple[Argument, ...]:
    """Arguments of a forward window that is the whole run, from rest, but for learnt constants."""
    stride = 1 if current.shape[0] == steps else 0
    images = None if spikes is None else _images(spikes, 0, steps, pooling, written=True)
    return Rows(current, 0, steps, stride), None, images, None if words is None else words[0], None, None


def _backward_rows(
    grad_spikes: Tensor,
    current: Tensor,
    words: Tensor,
    any_spike: Tensor | None,
    grad_current: Tensor,
    pooling: Pooling | None,
) -> tuple[Argument, ...]:
    """Arguments of its backward window, but for learnt constants and their gradients."""
    images = _images(grad_spikes, 0, grad_spikes.shape[0], pooling)
    return images, _all(current), words[0], None, any_spike, None, None, _all(grad_current)


# --- compiling --------------------------------------------------------------------------------------------------


def _run(window: Callable[..., None], recipe: _Recipe, *arguments: Argument) -> None:
    """Call ``window`` compiled, or eagerly where there is no compiler."""
    loop = _cpp.compiled(lambda: _loop(window, recipe, arguments))
    if loop is not None:
        loop(arguments)
        return
    spelled_out = _spelled_out(arguments)
    window(recipe, *spelled_out)
    for argument, rows in zip(arguments, spelled_out, strict=True):
        if isinstance(argument, Pooled):
            argument.take(rows)


_loops: dict[tuple[Callable[..., None], _Recipe, tuple[Kind, ...]], Loop] = {}


def _loop(window: Callable[..., None], recipe: _Recipe, arguments: Sequence[Argument]) -> Loop:
    """The window as a loop for such arguments, compiled where it is the first of its kind in this process."""
    key = window, recipe, tuple(map(kind, arguments))
    if key not in _loops:
        _loops[key] = Loop(functools.partial(window, recipe), arguments)
    return _loops[key]


def _spelled_out(arguments: Sequence[Argument]) -> list[Any]:
    """Arguments as windows take them."""
    found: list[Any] = []
    for argument in arguments:
        if isinstance(argument, (Rows, Pooled)):
            found.append(argument.spelled_out())
        elif isinstance(argument, int):
            found.append(torch.full((), argument, dtype=torch.int32, device="cpu"))
        else:
            found.append(argument)
    return found
