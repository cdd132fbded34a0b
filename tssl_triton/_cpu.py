"""The CPU implementation: one window of time at a time as a fused loop, compiled by Inductor.

Each function below spells out at most `WINDOW` steps for all neurons. Inductor turns it into a single vectorised
pass that keeps membrane and synapse in registers, as the Triton kernels do. Longer runs call the same compiled
window again and again, so that the cost of compiling does not grow with T; the neuron count stays symbolic, so that
one compilation serves every batch size. Where no C++ compiler is found the same functions run as eager PyTorch,
which is said once.

All tensors here are views ``(T, N)`` or ``(N,)`` in memory order; outputs are allocated by the caller. Time steps are
passed as lists of rows: a row is written in place, with no stacking and no copy afterwards. A state is three rows
``(3, N)``: synaptic current i, membrane potential v and postsynaptic current a.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ._cpu_surrogate import membrane_error
from .kernels.layout import WINDOW, WORD, arithmetic_dtype
from .parameters import LIFParameters
from .rules import Surrogate

Rows = Sequence[Tensor]


_ANY = LIFParameters()  # for windows that no neuron takes part in

SURROGATE_WIDTH = 0.2  # supplement 2.3: width of the sigmoid whose slope warms up silent neurons
SURROGATE_CLIP = 8.0  # the released program clips the sigmoid's argument to +-8


@dataclass(frozen=True)
class _Recipe:
    """All that a compiled window depends on besides its tensors; one compilation each."""

    steps: int
    dtype: torch.dtype
    params: LIFParameters
    synapse: bool = True
    static: bool = False
    carried: bool = False
    packed: bool = True
    rule: Surrogate | None = None  # None is TSSL-BP


# --- the windows ------------------------------------------------------------------------------------------------


def _lif_forward_window(
    recipe: _Recipe,
    currents: Rows,
    state: Tensor | None,
    spikes: Rows,
    word: Tensor | None,
    bit: Tensor | None,
    new_state: Tensor | None,
) -> None:
    """Equations (3)-(5) for one window; writes spikes, the state after it, and the word from ``bit`` on."""
    p = recipe.params
    i, v, a = _start(state, currents[0])
    bits = torch.zeros_like(i, dtype=torch.int32)
    for k in range(recipe.steps):
        y = currents[0 if recipe.static else k].to(i.dtype)
        i, u = charged(p, recipe.synapse, i, v, y)
        fired = u > p.threshold
        s = fired.to(i.dtype)
        v = after_reset(p, u, fired)
        spikes[k].copy_(s)
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
    grad_spikes: Rows,
    currents: Rows,
    word: Tensor,
    bit: Tensor | None,
    any_spike: Tensor | None,
    state: Tensor | None,
    carry: Tensor | None,
    grad_currents: Rows,
) -> None:
    """One window, replayed and walked back by the learning rule; ``carry`` holds (delta, e) of the step after it."""
    p = recipe.params
    i, v, a = _start(state, currents[0])

    # Forward again, from the saved input and the saved spikes.
    bits = word.to(torch.int32) if bit is None else word >> bit
    replay = []
    for k in range(recipe.steps):
        y = currents[0 if recipe.static else k].to(i.dtype)
        i, u = charged(p, recipe.synapse, i, v, y)
        du = u - v
        fired = ((bits >> k) & 1) != 0
        v = after_reset(p, u, fired)
        a = filtered(p, a, fired.to(i.dtype))
        replay.append((u, du, fired, quiet(p, a)))

    # And back, with the error of the next spike in one carry per neuron.
    silent = any_spike == 0 if any_spike is not None else None
    delta, e = (carry[0], carry[1]) if carry is not None else (torch.zeros_like(i), torch.zeros_like(i))
    total = grad_currents[0].to(i.dtype) if recipe.carried and recipe.static else torch.zeros_like(i)
    for k in reversed(range(recipe.steps)):
        u, du, fired, below = replay[k]
        g = grad_spikes[k].to(i.dtype)
        warm = silent if silent is not None else below
        delta, emitted = learnt_error(recipe.rule, p, u, du, fired, warm, g, delta)
        e = filtered(p, e, emitted) if recipe.synapse else emitted
        if recipe.static:
            total = total + e
        else:
            grad_currents[k].copy_(e)
    if recipe.static:
        grad_currents[0].copy_(total)
    if carry is not None:
        carry[0].copy_(delta)
        carry[1].copy_(e)


def _psc_window(recipe: _Recipe, inputs: Rows, state: Tensor, outputs: Rows) -> None:
    """The synaptic filter for one window, ``a = beta a + s / tau_syn``; ``state`` is read and left at the last step."""
    a = state[0]
    for k in range(recipe.steps):
        a = filtered(recipe.params, a, inputs[k].to(state.dtype))
        outputs[k].copy_(a)
    state[0].copy_(a)


def _unpack_window(recipe: _Recipe, word: Tensor, bit: Tensor, spikes: Rows) -> None:
    """The steps of one window from their bits, which begin at ``bit`` of the word."""
    bits = word.to(torch.int32) >> bit
    for k in range(recipe.steps):
        spikes[k].copy_((bits >> k) & 1)


def _start(state: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if state is not None:
        return state[0], state[1], state[2]
    zero = torch.zeros_like(like, dtype=arithmetic_dtype(like.dtype))
    return zero, zero, zero


# --- one step of a neuron, which `tssl_triton.replay` takes as well ------------------------------------------------


def charged(p: LIFParameters, synapse: bool, i: Tensor, v: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Synaptic current i[t], eq. (3), and membrane potential u[t], eq. (4), from those of the step before."""
    i = filtered(p, i, y) if synapse else y
    return i, p.alpha * v + i


def after_reset(p: LIFParameters, u: Tensor, fired: Tensor) -> Tensor:
    """v[t], what a spike leaves of u[t]."""
    return torch.where(fired, u - p.threshold if p.reset == "subtract" else 0.0, u)


def filtered(p: LIFParameters, before: Tensor, x: Tensor) -> Tensor:
    """One step of the synapse: forwards that of y and of the PSC, backwards that of the error."""
    return p.beta * before + x * (1.0 / p.tau_syn)


def quiet(p: LIFParameters, a: Tensor) -> Tensor:
    """Where the neuron's own PSC says that it has not fired of late, and ``warmup="psc"`` takes over."""
    return a < 0.25 * (1.0 / p.tau_syn)


def learnt_error(
    rule: Surrogate | None,
    p: LIFParameters,
    u: Tensor,
    du: Tensor,
    fired: Tensor,
    warm: Tensor,
    g: Tensor,
    delta: Tensor,
) -> tuple[Tensor, Tensor]:
    """delta[t] from delta[t+1], and what of it step t emits; a ``rule`` of None is TSSL-BP."""
    if rule is None:
        return _tssl_error(p, u, du, fired, warm, g, delta)
    delta = membrane_error(rule, p, u, fired, g, delta)
    return delta, delta


def _tssl_error(
    p: LIFParameters, u: Tensor, du: Tensor, fired: Tensor, warm: Tensor, g: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor]:
    """TSSL-BP, eqs. (11)-(14): delta[t] from delta[t+1], and what of it, or of the warm-up, step t emits."""
    kappa = torch.where(du < 0, 0.0, 1.0 / torch.clamp(du, min=1.0 / p.max_slope))
    rho = (u if p.reset == "zero" else p.threshold) * (1.0 / p.tau_mem)
    error = g if p.variant == "no-intra" else g + rho * delta
    leaked = 0.0 if p.variant == "no-leak" else p.alpha * delta
    delta = torch.where(fired, kappa * error, leaked)
    emitted = torch.where(fired, delta, 0.0) if p.variant == "paper" else delta
    if p.warmup != "off":
        x = torch.clamp((u - p.threshold) * (1.0 / SURROGATE_WIDTH), -SURROGATE_CLIP, SURROGATE_CLIP)
        sigma = torch.sigmoid(x)
        slope = sigma * (1.0 - sigma) * (1.0 / SURROGATE_WIDTH)
        emitted = g * slope if p.warmup == "always" else torch.where(warm, g * slope, emitted)
    return delta, emitted


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
) -> None:
    """Fill ``spikes (T, N)``, packed ``words``, ``checkpoints`` and ``new_state (3, N)`` from ``current``.

    ``current`` is ``(T, N)``, or ``(1, N)`` where one input serves all steps. ``words``, ``checkpoints`` and
    ``new_state`` may be None: they are not written then. A ``state`` of None is a neuron at rest.
    """
    steps = len(spikes)
    recipe = _Recipe(steps, current.dtype, params, synapse, len(current) < steps, False, words is not None)
    if steps <= WINDOW and state is None and new_state is None:
        word = None if words is None else words[0]
        _run(_lif_forward_window, recipe, list(current), None, list(spikes), word, None, None)
        return
    state = _zeros(3, current) if state is None else state
    for t in range(0, steps, WINDOW):
        n = min(WINDOW, steps - t)
        following = new_state if t + n == steps else _checkpoint(checkpoints, t + n)
        if following is None:
            following = torch.empty_like(state)
        _run(
            _lif_forward_window,
            replace(recipe, steps=n, carried=True),
            list(current if recipe.static else current[t : t + n]),
            state,
            list(spikes[t : t + n]),
            None if words is None else words[t // WORD],
            _bit(t),
            following,
        )
        state = following


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
) -> None:
    """Fill ``grad_current``, shaped like ``current``, from ``grad_spikes (T, N)`` and what forward kept.

    A ``rule`` of None is TSSL-BP.
    """
    steps = len(grad_spikes)
    recipe = _Recipe(steps, current.dtype, params, synapse, len(current) < steps, rule=rule)
    any_spike = functools.reduce(torch.bitwise_or, words) if rule is None and params.warmup == "silent" else None
    if steps <= WINDOW and state is None:
        rows = list(grad_spikes), list(current), words[0], None, any_spike, None, None, list(grad_current)
        _run(_lif_backward_window, recipe, *rows)
        return
    carry = _zeros(2, current)
    # A sum over windows is kept at full precision; the caller's tensor may be 16 bits wide.
    total = _zeros(1, current) if recipe.static else grad_current
    first = _zeros(3, current) if state is None else state
    for t in reversed(range(0, steps, WINDOW)):
        n = min(WINDOW, steps - t)
        _run(
            _lif_backward_window,
            replace(recipe, steps=n, carried=True),
            list(grad_spikes[t : t + n]),
            list(current if recipe.static else current[t : t + n]),
            words[t // WORD],
            _bit(t),
            any_spike,
            first if t == 0 else _checkpoint(checkpoints, t),
            carry,
            list(total if recipe.static else grad_current[t : t + n]),
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
    params = LIFParameters(tau_syn=tau_syn)
    sources, targets = list(inputs), list(outputs)
    if reverse:
        sources.reverse()
        targets.reverse()
    carried = _zeros(1, inputs) if new_state is None else new_state.zero_()
    if state is not None:
        carried.copy_(state)
    for t in range(0, len(sources), WINDOW):
        recipe = _Recipe(min(WINDOW, len(sources) - t), inputs.dtype, params)
        _run(_psc_window, recipe, sources[t : t + WINDOW], carried, targets[t : t + WINDOW])


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
        _run(_unpack_window, recipe, words[t // WORD], _bit(t), list(spikes[t : t + n]))


def _checkpoint(checkpoints: Tensor | None, t: int) -> Tensor | None:
    """The state that window ``t // WINDOW`` starts from, where it is kept; the first window's is not."""
    row = 3 * (t // WINDOW - 1)
    return None if checkpoints is None else checkpoints[row : row + 3]


def _bit(t: int) -> Tensor:
    """Which bit of its word step t is; a tensor, so that one compiled window serves every place in a word."""
    return torch.tensor(t % WORD, dtype=torch.int32)


def _zeros(rows: int, like: Tensor) -> Tensor:
    return torch.zeros(rows, like.shape[1], dtype=arithmetic_dtype(like.dtype))


# --- compiling --------------------------------------------------------------------------------------------------

_eager_reason: str | None = None


def implementation() -> str:
    """``"inductor"``, or ``"eager"`` where compiling failed before or ``TSSL_CPU=eager`` asks for it."""
    return "eager" if _eager_reason or os.environ.get("TSSL_CPU") == "eager" else "inductor"


def _run(window: Callable[..., None], recipe: _Recipe, *tensors: object) -> None:
    """Call ``window`` compiled, or eagerly, having said why, where there is no compiler to build it with."""
    global _eager_reason
    tensors = tuple(_unrelated(argument) for argument in tensors)
    if implementation() == "eager":
        window(recipe, *tensors)
        return
    try:
        _compiled(window, recipe)(*tensors)
    except torch._inductor.exc.InductorError as error:
        _eager_reason = str(error).strip().splitlines()[0]
        warnings.warn(
            "tssl_triton: the CPU loop could not be compiled and runs as eager PyTorch from here on, many times "
            f"slower; install a C++ compiler (g++ or clang++) to change that. The reason: {_eager_reason}",
            RuntimeWarning,
            stacklevel=2,
        )
        window(recipe, *tensors)


def _unrelated(argument: object) -> object:
    """A row that does not know which tensor it is a view of.

    torch.compile would ask that tensor's shape to be the same in each call, and so compile again for another T.
    """
    if isinstance(argument, Tensor):
        return argument.data
    return [row.data for row in argument] if isinstance(argument, list) else argument


@functools.cache
def _compiled(window: Callable[..., None], recipe: _Recipe) -> Callable[..., None]:
    def bound(*tensors: object) -> None:
        window(recipe, *tensors)

    # torch.compile keeps its cache, and a limit of a few entries, per code object; a copy of the code for each
    # recipe keeps many layer settings in one process from exhausting it and falling back to eager unseen.
    bound.__code__ = bound.__code__.replace()
    compiled = torch.compile(bound, dynamic=True, fullgraph=True)
    ready = False

    def call(*tensors: object) -> None:
        nonlocal ready
        if ready:
            compiled(*tensors)
            return
        # Floats become constants of the loop. Left symbolic, as dynamic=True would have them, Inductor works out
        # 1 - 1/tau in double precision again for every few neurons.
        with torch._dynamo.config.patch(specialize_float=True):
            compiled(*tensors)
        ready = True

    return call
