"""Backward by a surrogate for the spike's slope: STBP and SLAYER in one reverse walk, beside TSSL-BP's.

With f the window around the threshold that stands for ds/du, and delta = dL/du, per neuron::

    delta[t] = f(u[t]) (G[t] - r[t] alpha delta[t+1]) + k[t] alpha delta[t+1]     G = dL/ds
    e[t] = delta[t] / tau_syn + beta e[t+1]                                       the synapse's transpose; dL/dy = e

alpha delta[t+1] is what the membrane after step t is worth; k and r say how it depends on u[t] and on the spike::

    RESET_GRADIENT    reset to zero              reset by subtraction
    "full"            k = 1 - s[t], r = u[t]     k = 1, r = threshold     backpropagation through time
    "detached"        k = 1 - s[t], r = 0        k = 1, r = 0             the reset's spike as a constant
    "none"            k = 1,        r = 0        k = 1, r = 0             SLAYER: no refractory response

Sources: Wu, Deng, Li, Zhu & Shi, Frontiers in Neuroscience 12:331 (2018); Shrestha & Orchard, NeurIPS 2018.

Forward, what it keeps, and the replay of u from y are those of `tssl_triton.kernels.neuron`, and so is the memory
traffic: 12.13 (6.13) bytes per neuron-step, G, y and a bit in, e out; of a checkpoint (i, v, a), a is not needed.
"""

from __future__ import annotations

from typing import Any, Protocol

import triton
import triton.language as tl
from torch import Tensor

from .layout import WINDOW
from .membrane import (
    LOG2E,
    NeuronConstants,
    after_reset,
    backward_launch,
    distance,
    filter_step,
    forward_constants,
    load_carry,
    load_constants,
    load_state,
    reciprocal,
    replay,
    spread,
    store_carry,
    store_constant_errors,
    time_constant_errors,
    times_plus,
)
from .plan import Launch


class SurrogateConstants(Protocol):
    """What the launcher reads of the learning rule."""

    window: str
    width: float
    peak: float
    reset_gradient: str


@triton.jit
def surrogate_slope(u, threshold, SURROGATE: tl.constexpr, WIDTH: tl.constexpr, PEAK: tl.constexpr):
    """f(u), which is PEAK at the threshold; z is the distance from it in units of WIDTH."""
    if SURROGATE == "rectangular":
        unit = tl.where(distance(u, threshold, 1.0) < 0.5 * WIDTH, 1.0, 0.0)
    elif SURROGATE == "triangular":
        z = distance(u, threshold, 1.0 / WIDTH)
        unit = tl.where(z < 1.0, 1.0 - z, 0.0)
    elif SURROGATE == "arctan":
        z = times_plus(u, 1.0 / WIDTH, spread(-threshold / WIDTH, u))
        unit = reciprocal(tl.fma(z, z, tl.full(z.shape, 1.0, z.dtype)))
    elif SURROGATE == "fast-sigmoid":
        inverse = reciprocal(1.0 + distance(u, threshold, 1.0 / WIDTH))
        unit = inverse * inverse
    else:
        power = tl.exp2(-distance(u, threshold, LOG2E / WIDTH))
        if SURROGATE == "sigmoid":
            # sigma (1 - sigma) = power / (1 + power)^2, which is 1/4 at the threshold
            inverse = reciprocal(1.0 + power)
            unit = 4.0 * power * (inverse * inverse)
        else:
            unit = power
    return unit.to(u.dtype) * PEAK


@triton.jit
def _surrogate_window(
    # tensors, at this window's first step; words and checkpoints at the run's
    grad_spikes_ptr,
    current_ptr,
    grad_current_ptr,
    words_ptr,
    checkpoints_ptr,
    # sizes
    stride,
    mask,
    w,  # which window
    # state before the run; carry from after the window
    i,
    v,
    a,
    delta,
    e,
    total,
    # what steps after it add to the gradients of the constants, and e of the first of them
    of_tau_mem,
    of_tau_syn,
    of_threshold,
    e_after,
    # constants
    alpha,
    beta,
    inv_tau_syn,
    threshold,
    WIDTH: tl.constexpr,
    PEAK: tl.constexpr,
    # options
    SURROGATE: tl.constexpr,
    RESET_GRADIENT: tl.constexpr,
    SUBTRACT: tl.constexpr,
    SYNAPSE: tl.constexpr,
    STATIC: tl.constexpr,
    LEARNT: tl.constexpr,
    # shape of the program
    LONG: tl.constexpr,
    STEPS: tl.constexpr,
    WINDOW: tl.constexpr,
    PER_WORD: tl.constexpr,
    ACC: tl.constexpr,
):
    """Replay STEPS steps, then walk them back; returns the carry before them."""
    # 1. The state before the window and its spikes as bits.
    if LONG:
        if w > 0:
            i, v, a = load_state(checkpoints_ptr + 3 * (w - 1) * stride, stride, mask, ACC)
        bits = tl.load(words_ptr + (w // PER_WORD) * stride, mask=mask, other=0).to(tl.int32)
        bits = bits >> (WINDOW * (w % PER_WORD))
    else:
        bits = tl.load(words_ptr, mask=mask, other=0).to(tl.int32)

    # 2. Forward again.
    before = v
    us, _ = replay(
        current_ptr, stride, mask, bits, i, v, a,
        alpha, beta, inv_tau_syn, threshold, SUBTRACT, SYNAPSE, STATIC, False, STEPS, ACC,
    )  # fmt: skip

    # 3. And back.
    for k in tl.static_range(STEPS - 1, -1, -1):
        g = tl.load(grad_spikes_ptr + k * stride, mask=mask, other=0.0).to(ACC)
        u = us[k]
        fired = ((bits >> k) & 1) != 0
        after = alpha * delta  # dL/dv[t]
        if LEARNT and SUBTRACT and RESET_GRADIENT != "none":
            of_threshold -= tl.where(fired, after, 0.0)
        if RESET_GRADIENT == "full":
            if SUBTRACT:
                g = times_plus(after, -threshold, g)
            else:
                g = tl.fma(-u, after, g)
        if RESET_GRADIENT != "none" and not SUBTRACT:
            after = tl.where(fired, 0.0, after)
        slope = surrogate_slope(u, threshold, SURROGATE, WIDTH, PEAK)
        delta = tl.fma(slope, g, after)
        if SYNAPSE:
            e = filter_step(e, delta, beta, inv_tau_syn)
        else:
            e = delta
        if LEARNT:
            if k > 0:
                rest = after_reset(us[k - 1], ((bits >> (k - 1)) & 1) != 0, threshold, SUBTRACT)
            else:
                rest = before
            of_tau_mem, of_tau_syn = time_constant_errors(
                of_tau_mem, of_tau_syn, delta, u, rest, e, e_after, alpha, SYNAPSE
            )
            of_threshold = tl.fma(-slope, g, of_threshold)
        e_after = e
        if STATIC:
            total += e
        else:
            tl.store(grad_current_ptr + k * stride, e.to(grad_current_ptr.dtype.element_ty), mask=mask)
    return delta, e, total, of_tau_mem, of_tau_syn, of_threshold


@triton.jit(do_not_specialize=["full_windows"])
def surrogate_backward_kernel(
    # tensors
    grad_spikes_ptr,  # (T, N)
    current_ptr,  # (T, N), or (1, N) with STATIC
    words_ptr,  # (words, N) integer
    checkpoints_ptr,  # (3 full_windows, N), with LONG
    state_ptr,  # (3, N), with HAS_STATE
    grad_current_ptr,  # (T, N), or (1, N) with STATIC: the sum over time
    constants_ptr,  # (3, N), with LEARNT: tau_mem, tau_syn, threshold
    grad_constants_ptr,  # the same
    carry_ptr,  # (2, N), with HAS_CARRY: (delta, e) of the step after the last; left at the first's
    # sizes
    N,
    full_windows,  # windows of WINDOW steps before the last one
    # constants; those of the neuron where they are not LEARNT
    ALPHA: tl.constexpr,
    BETA: tl.constexpr,
    INV_TAU_SYN: tl.constexpr,
    THRESHOLD: tl.constexpr,
    WIDTH: tl.constexpr,
    PEAK: tl.constexpr,
    # options
    SURROGATE: tl.constexpr,
    RESET_GRADIENT: tl.constexpr,
    SUBTRACT: tl.constexpr,
    SYNAPSE: tl.constexpr,
    STATIC: tl.constexpr,
    HAS_STATE: tl.constexpr,
    LEARNT: tl.constexpr,
    HAS_CARRY: tl.constexpr,  # gradients of constants are added to what is there
    # shape of the program
    LONG: tl.constexpr,
    LAST: tl.constexpr,
    WINDOW: tl.constexpr,
    PER_WORD: tl.constexpr,  # windows in a word
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    stride = tl.cast(N, tl.int64)
    n = tl.arange(0, BLOCK)
    mask = n < N - start
    grad_spikes_ptr += start + n
    current_ptr += start + n
    grad_current_ptr += start + n
    words_ptr += start + n
    if LONG:
        checkpoints_ptr += start + n

    if HAS_CARRY:
        delta, e = load_carry(carry_ptr + start + n, stride, mask, ACC)
    else:
        delta = tl.zeros([BLOCK], ACC)
        e = tl.zeros([BLOCK], ACC)
    total = tl.zeros([BLOCK], ACC)
    of_tau_mem = tl.zeros([BLOCK], ACC)
    of_tau_syn = tl.zeros([BLOCK], ACC)
    of_threshold = tl.zeros([BLOCK], ACC)
    if LEARNT:
        alpha, beta, inv_tau_mem, inv_tau_syn, threshold = load_constants(constants_ptr + start + n, stride, mask, ACC)
    if HAS_STATE:
        i, v, a = load_state(state_ptr + start + n, stride, mask, ACC)
    else:
        i = tl.zeros([BLOCK], ACC)
        v = tl.zeros([BLOCK], ACC)
        a = tl.zeros([BLOCK], ACC)

    # The last window, whose length is known while compiling.
    if LONG:
        grad_spikes_ptr += full_windows * WINDOW * stride
        if not STATIC:
            current_ptr += full_windows * WINDOW * stride
            grad_current_ptr += full_windows * WINDOW * stride
    delta, e, total, of_tau_mem, of_tau_syn, of_threshold = _surrogate_window(
        grad_spikes_ptr, current_ptr, grad_current_ptr, words_ptr, checkpoints_ptr, stride, mask, full_windows,
        i, v, a, delta, e, total, of_tau_mem, of_tau_syn, of_threshold, tl.zeros([BLOCK], ACC),
        alpha if LEARNT else ALPHA, beta if LEARNT else BETA,
        inv_tau_syn if LEARNT else INV_TAU_SYN, threshold if LEARNT else THRESHOLD, WIDTH, PEAK,
        SURROGATE, RESET_GRADIENT, SUBTRACT, SYNAPSE, STATIC, LEARNT, LONG, LAST, WINDOW, PER_WORD, ACC,
    )  # fmt: skip

    # The full windows before it, latest first.
    if LONG:
        for back in range(full_windows):
            grad_spikes_ptr -= WINDOW * stride
            if not STATIC:
                current_ptr -= WINDOW * stride
                grad_current_ptr -= WINDOW * stride
            delta, e, total, of_tau_mem, of_tau_syn, of_threshold = _surrogate_window(
                grad_spikes_ptr, current_ptr, grad_current_ptr, words_ptr, checkpoints_ptr, stride, mask,
                full_windows - 1 - back, i, v, a, delta, e, total, of_tau_mem, of_tau_syn, of_threshold, e,
                alpha if LEARNT else ALPHA, beta if LEARNT else BETA,
                inv_tau_syn if LEARNT else INV_TAU_SYN, threshold if LEARNT else THRESHOLD, WIDTH, PEAK,
                SURROGATE, RESET_GRADIENT, SUBTRACT, SYNAPSE, STATIC, LEARNT, LONG, WINDOW, WINDOW, PER_WORD, ACC,
            )  # fmt: skip
    if STATIC:
        tl.store(grad_current_ptr, total.to(grad_current_ptr.dtype.element_ty), mask=mask)
    if LEARNT:
        store_constant_errors(
            grad_constants_ptr + start + n, stride, mask,
            of_tau_mem, of_tau_syn, of_threshold, e, i, inv_tau_mem, SYNAPSE, HAS_CARRY,
        )  # fmt: skip
    if HAS_CARRY:
        store_carry(carry_ptr + start + n, stride, mask, delta, e)


def surrogate_backward(
    grad_spikes: Tensor,
    current: Tensor,
    words: Tensor,
    checkpoints: Tensor | None,
    state: Tensor | None,
    grad_current: Tensor,
    *,
    params: NeuronConstants,
    rule: SurrogateConstants,
    synapse: bool,
    constants: Tensor | None = None,
    grad_constants: Tensor | None = None,
    carry: Tensor | None = None,
) -> None:
    """Fill ``grad_current``, shaped like ``current``, from ``grad_spikes (T, N)`` and what forward kept.

    With learnt ``constants (3, N)`` their gradients are written to ``grad_constants``. A run that is one part of a
    longer one has a ``carry (2, N)``, which holds (delta, e) of the step after it, and then of its own first step;
    gradients of constants are added to what is there.
    """
    tensors = grad_spikes, current, words, checkpoints, state, grad_current
    beside = {"constants": constants, "grad_constants": grad_constants, "carry": carry}
    surrogate_backward_launch(*tensors, params=params, rule=rule, synapse=synapse, **beside).run(current)


def surrogate_backward_launch(
    grad_spikes: Tensor,
    current: Tensor,
    words: Tensor,
    checkpoints: Tensor | None,
    state: Tensor | None,
    grad_current: Tensor,
    *,
    params: NeuronConstants,
    rule: SurrogateConstants,
    synapse: bool,
    constants: Tensor | None = None,
    grad_constants: Tensor | None = None,
    carry: Tensor | None = None,
) -> Launch:
    """The launch of `surrogate_backward`."""
    settings: dict[str, Any] = {
        **forward_constants(params),
        "SURROGATE": rule.window,
        "WIDTH": rule.width,
        "PEAK": rule.peak,
        "RESET_GRADIENT": rule.reset_gradient,
    }
    # Left to itself, the assembler may save a register of a long run, or of one whose constants are learnt, for one
    # more program at once, and spill.
    most = 255 if len(grad_spikes) > WINDOW or constants is not None else None
    return backward_launch(
        surrogate_backward_kernel, grad_spikes, current, words, checkpoints, state, grad_current,
        settings=settings, synapse=synapse, max_registers=most,
        constants=constants, grad_constants=grad_constants, carry=carry,
    )  # fmt: skip
