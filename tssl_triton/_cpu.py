"""The CPU implementation: one window of time at a time as a fused loop, compiled by Inductor.

Each function below spells out at most `WINDOW` steps for all neurons. Inductor turns it into a single vectorised
pass that keeps membrane and synapse in registers, as the Triton kernels do. Longer runs call the same compiled
window again and again, so that the cost of compiling does not grow with T; the neuron count stays symbolic, so that
one compilation serves every batch size. Where no C++ compiler is found the same functions run as eager PyTorch,
which is said once.

All tensors here are views ``(T, N)`` or ``(N,)`` in memory order; outputs are allocated by the caller. Time steps are
passed as lists of rows: a row is written in place, with no stacking and no copy afterwards. A state is three rows
``(3, N)``: synaptic current i, membrane potential v and postsynaptic current a. Constants that are learnt are three
rows too: tau_mem, tau_syn and threshold of each neuron.

On a GPU the same windows are eager PyTorch: they serve what has no Triton kernel, which is learnt constants and the
single steps back of a recurrent layer.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ._cpu_surrogate import membrane_error
from ._cpu_tssl import crossing_error, tssl_error
from ._learnt import Neuron, Step, add_errors, constant_errors, neuron
from .kernels.layout import WINDOW, WORD, arithmetic_dtype
from .parameters import LIFParameters
from .rules import Surrogate

Rows = Sequence[Tensor]


_ANY = LIFParameters()  # for windows that no neuron takes part in


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
    learnt: bool = False


# --- the windows ------------------------------------------------------------------------------------------------


def _lif_forward_window(
    recipe: _Recipe,
    currents: Rows,
    state: Tensor | None,
    spikes: Rows,
    word: Tensor | None,
    bit: Tensor | None,
    new_state: Tensor | None,
    constants: Tensor | None,
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
    grad_spikes: Rows,
    currents: Rows,
    word: Tensor,
    bit: Tensor | None,
    any_spike: Tensor | None,
    state: Tensor | None,
    carry: Tensor | None,
    grad_currents: Rows,
    constants: Tensor | None,
    grad_constants: Tensor | None,
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
        fired = ((bits >> k) & 1) != 0
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
) -> None:
    """Fill ``spikes (T, N)``, packed ``words``, ``checkpoints`` and ``new_state (3, N)`` from ``current``.

    ``current`` is ``(T, N)``, or ``(1, N)`` where one input serves all steps. ``words``, ``checkpoints`` and
    ``new_state`` may be None: they are not written then. A ``state`` of None is a neuron at rest. Learnt ``constants
    (3, N)`` stand for the numbers of ``params``.
    """
    steps = len(spikes)
    recipe = _Recipe(steps, current.dtype, params, synapse, packed=words is not None, learnt=constants is not None)
    # Where one input serves all steps its row is given for each: the same compiled window serves both.
    rows = list(current) * (steps if len(current) < steps else 1)
    if steps <= WINDOW and state is None and new_state is None:
        word = None if words is None else words[0]
        _run(_lif_forward_window, recipe, rows, None, list(spikes), word, None, None, constants)
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
            rows[t : t + n],
            state,
            list(spikes[t : t + n]),
            None if words is None else words[t // WORD],
            _bit(t, current),
            following,
            constants,
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
    constants: Tensor | None = None,
    grad_constants: Tensor | None = None,
) -> None:
    """Fill ``grad_current``, shaped like ``current``, from ``grad_spikes (T, N)`` and what forward kept.

    A ``rule`` of None is TSSL-BP. The gradients of learnt ``constants (3, N)`` are added to ``grad_constants``.
    """
    steps = len(grad_spikes)
    learnt = constants is not None
    recipe = _Recipe(steps, current.dtype, params, synapse, len(current) < steps, rule=rule, learnt=learnt)
    any_spike = functools.reduce(torch.bitwise_or, words) if rule is None and params.warmup == "silent" else None
    if steps <= WINDOW and state is None:
        rows = list(grad_spikes), list(current), words[0], None, any_spike, None, None, list(grad_current)
        _run(_lif_backward_window, recipe, *rows, constants, grad_constants)
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
            _bit(t, current),
            any_spike,
            first if t == 0 else _checkpoint(checkpoints, t),
            carry,
            list(total if recipe.static else grad_current[t : t + n]),
            constants,
            grad_constants,
        )
    if recipe.static:
        grad_current.copy_(total)


def lif_step_back(
    grad_spikes: Tensor,
    current: Tensor,
    fired: Tensor,
    any_spike: Tensor | None,
    state: Tensor,
    carry: Tensor,
    grad_current: Tensor,
    *,
    params: LIFParameters,
    rule: Surrogate | None,
    constants: Tensor | None,
    grad_constants: Tensor | None,
) -> None:
    """One step of `lif_backward`, all tensors ``(N,)`` but for the state before it ``(3, N)``.

    ``fired`` is 0 or 1; ``any_spike`` says whether the neuron spikes in the whole run, None where warm-up does not ask;
    ``carry (2, N)`` is (delta, e) of the step after it, and then of this one.
    """
    recipe = _Recipe(1, current.dtype, params, carried=True, rule=rule, learnt=constants is not None)
    rows = [grad_spikes], [current], fired, None, any_spike, state, carry, [grad_current]
    _run(_lif_backward_window, recipe, *rows, constants, grad_constants)


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
        _run(_unpack_window, recipe, words[t // WORD], _bit(t, words), list(spikes[t : t + n]))


def _checkpoint(checkpoints: Tensor | None, t: int) -> Tensor | None:
    """The state that window ``t // WINDOW`` starts from, where it is kept; the first window's is not."""
    row = 3 * (t // WINDOW - 1)
    return None if checkpoints is None else checkpoints[row : row + 3]


def _bit(t: int, like: Tensor) -> Tensor:
    """Which bit of its word step t is; a tensor, so that one compiled window serves every place in a word."""
    return torch.full((), t % WORD, dtype=torch.int32, device=like.device)


def _zeros(rows: int, like: Tensor) -> Tensor:
    return torch.zeros(rows, like.shape[1], dtype=arithmetic_dtype(like.dtype), device=like.device)


# --- compiling --------------------------------------------------------------------------------------------------

_eager_reason: str | None = None


def implementation() -> str:
    """``"inductor"``, or ``"eager"`` where compiling failed before or ``TSSL_CPU=eager`` asks for it."""
    return "eager" if _eager_reason or os.environ.get("TSSL_CPU") == "eager" else "inductor"


def _run(window: Callable[..., None], recipe: _Recipe, *tensors: object) -> None:
    """Call ``window`` compiled, or eagerly, having said why, where there is no compiler to build it with.

    On a GPU it is called eagerly.
    """
    global _eager_reason
    arguments, kinds = _unrelated(tensors)
    if implementation() == "eager" or not _is_on_cpu(tensors[0]):
        window(recipe, *arguments)
        return
    try:
        _compiled(window, recipe, kinds, torch.get_num_threads())(arguments)
    except torch._inductor.exc.InductorError as error:
        _eager_reason = str(error).strip().splitlines()[0]
        warnings.warn(
            "tssl_triton: the CPU loop could not be compiled and runs as eager PyTorch from here on, many times "
            f"slower; install a C++ compiler (g++ or clang++) to change that. The reason: {_eager_reason}",
            RuntimeWarning,
            stacklevel=2,
        )
        window(recipe, *arguments)


def _is_on_cpu(rows: object) -> bool:
    first = rows[0] if isinstance(rows, list) else rows
    return isinstance(first, Tensor) and first.device.type == "cpu"


def _unrelated(tensors: Sequence[object]) -> tuple[tuple[object, ...], tuple[object, ...]]:
    """The arguments of a window, and their kinds: all that its code depends on besides the number of neurons.

    Rows no longer know which tensor they are views of: torch.compile would ask that tensor's shape to be the same in
    each call. They are contiguous, see `tssl_triton._layout.flat`. A single neuron is a kind of its own, as
    torch.compile takes a size of 1 for a constant.
    """
    arguments: list[object] = []
    kinds: list[object] = []
    for tensor in tensors:
        if isinstance(tensor, list):
            arguments.append([row.data for row in tensor])
            kinds += (tensor[0].dtype, len(tensor), tensor[0].shape[0] == 1)
        elif isinstance(tensor, Tensor):
            arguments.append(tensor.data)
            kinds.append(tensor.dtype)
        else:
            arguments.append(tensor)
            kinds.append(None)
    return tuple(arguments), tuple(kinds)


@functools.cache
def _compiled(
    window: Callable[..., None], recipe: _Recipe, kinds: tuple[object, ...], threads: int
) -> Callable[[tuple[object, ...]], None]:
    """The window as one loop for arguments of these kinds (`_unrelated`), written for this number of threads.

    Dynamo traces the window once and has Inductor compile the graph; later calls hand their tensors to what Inductor
    made and so save Dynamo's guards, whose questions the key of this cache has answered. Where Dynamo does not say
    which argument an input of its graph is, they go by way of it.
    """
    straight: Callable[[tuple[object, ...]], object] | None = None

    def bound(*tensors: object) -> None:
        window(recipe, *tensors)

    # Dynamo counts recompilations per code object, up to a limit of a few: each of ours has its own.
    bound.__code__ = bound.__code__.replace()

    def inductor(graph: torch.fx.GraphModule, examples: Any) -> Any:
        nonlocal straight
        run = torch._inductor.compile(graph, examples)
        inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
        # Expressions such as L['tensors'][2][0] and L['tensors'][0][0].size()[0].
        names = [getattr(getattr(node, "_dynamo_source", None), "name", None) for node in inputs]
        known = [name for name in names if isinstance(name, str)]
        if len(known) == len(names):
            chosen = eval(f"lambda L: ({', '.join(known)},)")

            def call(tensors: tuple[object, ...]) -> object:
                return run(*chosen({"tensors": tensors}))

            straight = call
        return run

    traced = torch.compile(bound, backend=inductor, dynamic=True, fullgraph=True)

    def call(tensors: tuple[object, ...]) -> None:
        if straight is not None:
            straight(tensors)
            return
        # Floats become constants of the loop. Left symbolic, as dynamic=True would have them, Inductor works out
        # 1 - 1/tau in double precision again for every few neurons.
        with torch._dynamo.config.patch(specialize_float=True):
            traced(*tensors)

    return call
