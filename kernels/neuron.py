"""The leaky integrate-and-fire neuron: forward, and the TSSL-BP backward, each one pass with time in registers.

Forward, Zhang & Li (NeurIPS 2020), eqs. (3)-(5), per neuron::

    i[t] = beta i[t-1] + y[t] / tau_syn        (i[t] = y[t] without SYNAPSE)
    u[t] = alpha v[t-1] + i[t]
    s[t] = u[t] > threshold
    v[t] = u[t] (1 - s[t])                     (u[t] - threshold s[t] with SUBTRACT)

Backward, eqs. (11)-(14) with the sum over the phi table folded into one carry, delta = dL/du::

    kappa[t] = clip(1 / (u[t] - v[t-1]), 0, max_slope)          slope of the spike time against u
    spike:      delta[t] = kappa[t] (G[t] + rho[t] delta[t+1])  G = dL/ds; rho = u/tau_mem, or threshold/tau_mem
    no spike:   delta[t] = alpha delta[t+1]
    e[t] = delta'[t] / tau_syn + beta e[t+1]                    the synapse's transpose; dL/dy = e

delta' is delta, but for variant "paper", where silent steps emit 0, and for warm-up (supplement 2.3), where a neuron
without a recent spike, a[t] < 1/(4 tau_syn), emits G[t] f(u[t]) with f the slope of a sigmoid. The carry is always
delta. Two variants leave a term out of the carry, to show what it does: "no-intra" rho[t] delta[t+1], and "no-leak"
alpha delta[t+1]; and with warm-up "always" every step emits G[t] f(u[t]). u is replayed from y, spikes come from the
packed mask and so are forward's own.

Memory traffic per neuron-step in float32 (16 bits): forward reads y, writes s and 1 bit, 8.13 (4.13) bytes; backward
reads G, y and the bit, writes e, 12.13 (6.13) bytes. Checkpoints of runs beyond 8 steps add 12 bytes per 8 steps
to each; learnt constants 12 bytes per neuron to forward and 24 to backward. Tensors are ``(T, N)`` with N contiguous;
arithmetic is float32, or float64 for float64 tensors.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .layout import WINDOW, size_of
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
    membrane_step,
    program,
    reciprocal,
    replay,
    reset_by,
    store_carry,
    store_constant_errors,
    store_state,
    synapse_step,
    time_constant_errors,
    times_plus,
)
from .plan import Launch, plan_neurons

SURROGATE_WIDTH = 0.2
"""Width of the warm-up's sigmoid (supplement 2.3)."""

SURROGATE_CLIP = 8.0
"""The released program clips the sigmoid's argument to +-8."""


@triton.jit
def _sigmoid_power(u, threshold, CLIP: tl.constexpr, INV_WIDTH: tl.constexpr):
    """exp(-|x|) for x = (u - threshold) / width clipped to +-CLIP; the sigmoid's slope is the same for x and -x."""
    x = distance(u, threshold, LOG2E * INV_WIDTH)
    return tl.exp2(-tl.where(x < LOG2E * CLIP, x, LOG2E * CLIP))


@triton.jit
def _forward_window(
    # tensors, at this window's first step
    current_ptr,
    spikes_ptr,
    # sizes
    stride,
    mask,
    # state
    i,
    v,
    a,
    # constants
    alpha,
    beta,
    inv_tau_syn,
    threshold,
    # options
    SUBTRACT: tl.constexpr,
    SYNAPSE: tl.constexpr,
    STATIC: tl.constexpr,
    STEPS: tl.constexpr,
    ACC: tl.constexpr,
):
    """STEPS steps; returns the state after them and their spikes as bits."""
    # A sum of powers of two, exact in float32: bits collected as such hold up a predicate register for each.
    bits = tl.zeros(mask.shape, tl.float32)
    if STATIC:
        y = tl.load(current_ptr, mask=mask, other=0.0).to(ACC)
    for k in tl.static_range(STEPS):
        if not STATIC:
            y = tl.load(current_ptr + k * stride, mask=mask, other=0.0).to(ACC)
        i = synapse_step(i, y, beta, inv_tau_syn, SYNAPSE)
        u = membrane_step(v, i, alpha)
        s = (u > threshold).to(ACC)
        v = reset_by(u, s, threshold, SUBTRACT)
        a = filter_step(a, s, beta, inv_tau_syn)
        bits = times_plus(s.to(tl.float32), 1 << k, bits)
        # By way of float32: the interpreter has no cast from a boolean to bfloat16.
        tl.store(spikes_ptr + k * stride, s.to(tl.float32).to(spikes_ptr.dtype.element_ty), mask=mask)
    return i, v, a, bits.to(tl.int32)


# Sizes that only count windows; a launch with one window more is the same program.
@triton.jit(do_not_specialize=["full_windows"])
def lif_forward_kernel(
    # tensors
    current_ptr,  # (T, N), or (1, N) with STATIC
    spikes_ptr,  # (T, N)
    words_ptr,  # (words, N) integer, with KEEP
    checkpoints_ptr,  # (3 full_windows, N), with KEEP and LONG
    state_ptr,  # (3, N), with HAS_STATE
    new_state_ptr,  # (3, N), with CARRY
    constants_ptr,  # (3, N), with LEARNT: tau_mem, tau_syn, threshold
    # sizes
    N,
    full_windows,  # windows of WINDOW steps before the last one
    # constants, where they are not LEARNT
    ALPHA: tl.constexpr,
    BETA: tl.constexpr,
    INV_TAU_SYN: tl.constexpr,
    THRESHOLD: tl.constexpr,
    # options
    SUBTRACT: tl.constexpr,
    SYNAPSE: tl.constexpr,
    STATIC: tl.constexpr,
    KEEP: tl.constexpr,
    HAS_STATE: tl.constexpr,
    CARRY: tl.constexpr,
    LEARNT: tl.constexpr,
    # shape of the program
    LONG: tl.constexpr,  # more than one window
    LAST: tl.constexpr,  # steps of the last window, 1..WINDOW
    WINDOW: tl.constexpr,
    PER_WORD: tl.constexpr,  # windows in a word
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # One program, BLOCK neurons. Row offsets are 64-bit scalars: T N may pass 2^31 elements.
    start = tl.program_id(0).to(tl.int64) * BLOCK
    stride = tl.cast(N, tl.int64)
    n = tl.arange(0, BLOCK)
    mask = n < N - start
    current_ptr += start + n
    spikes_ptr += start + n

    if HAS_STATE:
        i, v, a = load_state(state_ptr + start + n, stride, mask, ACC)
    else:
        i = tl.zeros([BLOCK], ACC)
        v = tl.zeros([BLOCK], ACC)
        a = tl.zeros([BLOCK], ACC)
    word = tl.zeros([BLOCK], tl.int32)
    if LEARNT:
        alpha, beta, _, inv_tau_syn, threshold = load_constants(constants_ptr + start + n, stride, mask, ACC)

    if LONG:
        for w in range(full_windows):
            i, v, a, bits = _forward_window(
                current_ptr, spikes_ptr, stride, mask, i, v, a,
                alpha if LEARNT else ALPHA, beta if LEARNT else BETA,
                inv_tau_syn if LEARNT else INV_TAU_SYN, threshold if LEARNT else THRESHOLD,
                SUBTRACT, SYNAPSE, STATIC, WINDOW, ACC,
            )  # fmt: skip
            if KEEP:
                store_state(checkpoints_ptr + (3 * w) * stride + start + n, stride, mask, i, v, a)
                # Several windows to a word: the first begins it, the last completes it.
                part = w % PER_WORD
                word = tl.where(part == 0, bits, word | (bits << (WINDOW * part)))
                if part == PER_WORD - 1:
                    tl.store(words_ptr + (w // PER_WORD) * stride + start + n, word, mask=mask)
            spikes_ptr += WINDOW * stride
            if not STATIC:
                current_ptr += WINDOW * stride

    i, v, a, bits = _forward_window(
        current_ptr, spikes_ptr, stride, mask, i, v, a,
        alpha if LEARNT else ALPHA, beta if LEARNT else BETA,
        inv_tau_syn if LEARNT else INV_TAU_SYN, threshold if LEARNT else THRESHOLD,
        SUBTRACT, SYNAPSE, STATIC, LAST, ACC,
    )  # fmt: skip
    if KEEP:
        if LONG:
            part = full_windows % PER_WORD
            word = tl.where(part == 0, bits, word | (bits << (WINDOW * part)))
            words_ptr += (full_windows // PER_WORD) * stride
        else:
            word = bits
        tl.store(words_ptr + start + n, word.to(words_ptr.dtype.element_ty), mask=mask)
    if CARRY:
        store_state(new_state_ptr + start + n, stride, mask, i, v, a)


@triton.jit
def _backward_window(
    # tensors, at this window's first step
    grad_spikes_ptr,
    current_ptr,
    grad_current_ptr,
    # sizes
    stride,
    mask,
    # spikes of this window as bits; of the whole run, as not 0
    bits,
    any_spike,
    # state before the window; carry from after it
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
    intra,
    leak,
    inv_tau_syn,
    threshold,
    MAX_SLOPE: tl.constexpr,
    SURROGATE_CLIP: tl.constexpr,
    INV_SURROGATE_WIDTH: tl.constexpr,
    # options
    SUBTRACT: tl.constexpr,
    MAY_FALL: tl.constexpr,  # whether the membrane can be above the threshold before it fires again
    SYNAPSE: tl.constexpr,
    STATIC: tl.constexpr,
    PAPER: tl.constexpr,
    WARMUP: tl.constexpr,
    LEARNT: tl.constexpr,
    RESET_ERROR: tl.constexpr,  # whether a threshold's error takes in what its subtraction leaves of the membrane
    STEPS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Replay STEPS steps, then walk them back; returns the carry before them."""
    before = v
    us, below = replay(
        current_ptr, stride, mask, bits, i, v, a,
        alpha, beta, inv_tau_syn, threshold, SUBTRACT, SYNAPSE, STATIC, WARMUP == "psc", STEPS, ACC,
    )  # fmt: skip
    for k in tl.static_range(STEPS - 1, -1, -1):
        g = tl.load(grad_spikes_ptr + k * stride, mask=mask, other=0.0).to(ACC)
        u = us[k]
        fired = ((bits >> k) & 1) != 0
        if k > 0:
            rest = after_reset(us[k - 1], ((bits >> (k - 1)) & 1) != 0, threshold, SUBTRACT)
        else:
            rest = before
        du = u - rest
        # clip(1/du, 0, MAX_SLOPE) without dividing by 0. tl.maximum would round its constant to float32.
        rise = tl.where(du > 1.0 / MAX_SLOPE, du, 1.0 / MAX_SLOPE)
        if WARMUP == "psc":
            # A spike lifts a above the bound of warm-up: a step needs kappa or the sigmoid, and one reciprocal serves.
            power = _sigmoid_power(u, threshold, SURROGATE_CLIP, INV_SURROGATE_WIDTH)
            inverse = reciprocal(tl.where(fired, rise, 1.0 + power))
            kappa = inverse
        else:
            kappa = reciprocal(rise)
        if MAY_FALL:
            kappa = tl.where(du < 0.0, 0.0, kappa)
        # G + rho delta
        if SUBTRACT:
            error = times_plus(delta, threshold * intra, g)
        else:
            error = tl.fma(u * intra, delta, g)
        if LEARNT and RESET_ERROR:
            of_threshold -= tl.where(fired, alpha * delta, 0.0)
        delta = tl.where(fired, kappa * error, leak * delta)
        emitted = delta
        if PAPER:
            emitted = tl.where(fired, delta, 0.0)
        if WARMUP == "silent" or WARMUP == "always":
            power = _sigmoid_power(u, threshold, SURROGATE_CLIP, INV_SURROGATE_WIDTH)
            inverse = reciprocal(1.0 + power)
            warm = any_spike == 0
        if WARMUP == "psc":
            warm = ((below >> k) & 1) != 0
        # f = sigma (1 - sigma) / width = power / (1 + power)^2 / width
        if WARMUP == "always":
            emitted = g * INV_SURROGATE_WIDTH * power * (inverse * inverse)
        elif WARMUP != "off":
            emitted = tl.where(warm, g * INV_SURROGATE_WIDTH * power * (inverse * inverse), emitted)
        if SYNAPSE:
            e = filter_step(e, emitted, beta, inv_tau_syn)
        else:
            e = emitted
        if LEARNT:
            of_tau_mem, of_tau_syn = time_constant_errors(
                of_tau_mem, of_tau_syn, emitted, u, rest, e, e_after, alpha, SYNAPSE
            )
            # What crosses the threshold: all but what a silent step hands on.
            if WARMUP == "off":
                emitted = tl.where(fired, emitted, 0.0)
            elif WARMUP != "always":
                emitted = tl.where(fired | warm, emitted, 0.0)
            of_threshold -= emitted
        e_after = e
        if STATIC:
            total += e
        else:
            tl.store(grad_current_ptr + k * stride, e.to(grad_current_ptr.dtype.element_ty), mask=mask)
    return delta, e, total, of_tau_mem, of_tau_syn, of_threshold


@triton.jit(do_not_specialize=["full_windows", "words"])
def lif_backward_kernel(
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
    words,
    # constants; those that are LEARNT are not read, but for the zeros
    ALPHA: tl.constexpr,
    BETA: tl.constexpr,
    INTRA: tl.constexpr,  # 1/tau_mem, or 0 without the intra-neuron term
    LEAK: tl.constexpr,  # alpha, or 0 where silent steps hand no error back
    INV_TAU_SYN: tl.constexpr,
    THRESHOLD: tl.constexpr,
    MAX_SLOPE: tl.constexpr,
    SURROGATE_CLIP: tl.constexpr,
    INV_SURROGATE_WIDTH: tl.constexpr,
    # options
    SUBTRACT: tl.constexpr,
    SYNAPSE: tl.constexpr,
    STATIC: tl.constexpr,
    HAS_STATE: tl.constexpr,
    PAPER: tl.constexpr,
    WARMUP: tl.constexpr,  # "psc", "silent", "off" or "always"
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

    any_spike = tl.zeros([BLOCK], tl.int32)
    if WARMUP == "silent":
        for w in range(words):
            any_spike |= tl.load(words_ptr + w * stride, mask=mask, other=0).to(tl.int32)

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
        i0, v0, a0 = load_state(state_ptr + start + n, stride, mask, ACC)
    else:
        i0 = tl.zeros([BLOCK], ACC)
        v0 = tl.zeros([BLOCK], ACC)
        a0 = tl.zeros([BLOCK], ACC)

    # The last window, whose length is known while compiling.
    if LONG:
        checkpoints_ptr += 3 * (full_windows - 1) * stride + start + n
        i, v, a = load_state(checkpoints_ptr, stride, mask, ACC)
        bits = tl.load(words_ptr + (full_windows // PER_WORD) * stride, mask=mask, other=0).to(tl.int32)
        bits = bits >> (WINDOW * (full_windows % PER_WORD))
        grad_spikes_ptr += full_windows * WINDOW * stride
        if not STATIC:
            current_ptr += full_windows * WINDOW * stride
            grad_current_ptr += full_windows * WINDOW * stride
    else:
        i, v, a = i0, v0, a0
        bits = tl.load(words_ptr, mask=mask, other=0).to(tl.int32)
    delta, e, total, of_tau_mem, of_tau_syn, of_threshold = _backward_window(
        grad_spikes_ptr, current_ptr, grad_current_ptr, stride, mask, bits, any_spike, i, v, a, delta, e, total,
        of_tau_mem, of_tau_syn, of_threshold, tl.zeros([BLOCK], ACC),
        alpha if LEARNT else ALPHA, beta if LEARNT else BETA,
        inv_tau_mem if LEARNT and INTRA != 0 else INTRA, alpha if LEARNT and LEAK != 0 else LEAK,
        inv_tau_syn if LEARNT else INV_TAU_SYN, threshold if LEARNT else THRESHOLD,
        MAX_SLOPE, SURROGATE_CLIP, INV_SURROGATE_WIDTH,
        SUBTRACT, SUBTRACT or HAS_STATE, SYNAPSE, STATIC, PAPER, WARMUP,
        LEARNT, SUBTRACT and WARMUP != "always" and INTRA != 0, LAST, ACC,
    )  # fmt: skip

    # The full windows before it, latest first.
    if LONG:
        for back in range(full_windows):
            w = full_windows - 1 - back
            grad_spikes_ptr -= WINDOW * stride
            if not STATIC:
                current_ptr -= WINDOW * stride
                grad_current_ptr -= WINDOW * stride
            if w > 0:
                checkpoints_ptr -= 3 * stride
                i, v, a = load_state(checkpoints_ptr, stride, mask, ACC)
            else:
                i, v, a = i0, v0, a0
            bits = tl.load(words_ptr + (w // PER_WORD) * stride, mask=mask, other=0).to(tl.int32)
            bits = bits >> (WINDOW * (w % PER_WORD))
            delta, e, total, of_tau_mem, of_tau_syn, of_threshold = _backward_window(
                grad_spikes_ptr, current_ptr, grad_current_ptr, stride, mask, bits, any_spike, i, v, a, delta, e, total,
                of_tau_mem, of_tau_syn, of_threshold, e,
                alpha if LEARNT else ALPHA, beta if LEARNT else BETA,
                inv_tau_mem if LEARNT and INTRA != 0 else INTRA, alpha if LEARNT and LEAK != 0 else LEAK,
                inv_tau_syn if LEARNT else INV_TAU_SYN, threshold if LEARNT else THRESHOLD,
                MAX_SLOPE, SURROGATE_CLIP, INV_SURROGATE_WIDTH,
                SUBTRACT, SUBTRACT or HAS_STATE, SYNAPSE, STATIC, PAPER, WARMUP,
                LEARNT, SUBTRACT and WARMUP != "always" and INTRA != 0, WINDOW, ACC,
            )  # fmt: skip
    if STATIC:
        tl.store(grad_current_ptr, total.to(grad_current_ptr.dtype.element_ty), mask=mask)
    if LEARNT:
        store_constant_errors(
            grad_constants_ptr + start + n, stride, mask,
            of_tau_mem, of_tau_syn, of_threshold, e, i0, inv_tau_mem, SYNAPSE, HAS_CARRY,
        )  # fmt: skip
    if HAS_CARRY:
        store_carry(carry_ptr + start + n, stride, mask, delta, e)


def lif_forward(
    current: Tensor,
    spikes: Tensor,
    words: Tensor | None,
    checkpoints: Tensor | None,
    state: Tensor | None,
    new_state: Tensor | None,
    *,
    params: NeuronConstants,
    synapse: bool,
    constants: Tensor | None = None,
) -> None:
    """Fill ``spikes (T, N)``, packed ``words``, ``checkpoints`` and ``new_state (3, N)`` from ``current``.

    ``current`` is ``(T, N)``, or ``(1, N)`` where one input serves all steps. ``words``, ``checkpoints`` and
    ``new_state`` may be None: they are not written then. A ``state`` of None is a neuron at rest. Learnt ``constants
    (3, N)`` stand for the numbers of ``params``.
    """
    tensors = current, spikes, words, checkpoints, state, new_state
    lif_forward_launch(*tensors, params=params, synapse=synapse, constants=constants).run(current)


def lif_forward_launch(
    current: Tensor,
    spikes: Tensor,
    words: Tensor | None,
    checkpoints: Tensor | None,
    state: Tensor | None,
    new_state: Tensor | None,
    *,
    params: NeuronConstants,
    synapse: bool,
    constants: Tensor | None = None,
) -> Launch:
    """The launch of `lif_forward`."""
    steps, neurons = size_of(spikes)
    plan = plan_neurons(neurons, current.dtype, constants is not None)
    arguments = {
        "current_ptr": current,
        "spikes_ptr": spikes,
        "words_ptr": words,
        "checkpoints_ptr": checkpoints if checkpoints is not None and len(checkpoints) else None,
        "state_ptr": state,
        "new_state_ptr": new_state,
        "constants_ptr": constants,
        "N": neurons,
        **forward_constants(params),
        "SYNAPSE": synapse,
        "STATIC": len(current) < steps,
        "KEEP": words is not None,
        "HAS_STATE": state is not None,
        "CARRY": new_state is not None,
        "LEARNT": constants is not None,
        **program(steps, current.dtype),
        "BLOCK": plan.block,
    }
    return Launch(lif_forward_kernel, (plan.grid(neurons),), arguments, plan.num_warps, contract=False)


def lif_backward(
    grad_spikes: Tensor,
    current: Tensor,
    words: Tensor,
    checkpoints: Tensor | None,
    state: Tensor | None,
    grad_current: Tensor,
    *,
    params: NeuronConstants,
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
    lif_backward_launch(*tensors, params=params, synapse=synapse, **beside).run(current)


def lif_backward_launch(
    grad_spikes: Tensor,
    current: Tensor,
    words: Tensor,
    checkpoints: Tensor | None,
    state: Tensor | None,
    grad_current: Tensor,
    *,
    params: NeuronConstants,
    synapse: bool,
    constants: Tensor | None = None,
    grad_constants: Tensor | None = None,
    carry: Tensor | None = None,
) -> Launch:
    """The launch of `lif_backward`."""
    # A long run in 16 bits needs up to 185 registers without warm-up. Left to itself, the assembler for sm_80 stops at
    # 168, to fit a third program on the multiprocessor, and spills; with learnt constants that for sm_90 stops at 64.
    # Other launches keep the occupancy that it finds.
    spills = (len(grad_spikes) > WINDOW and current.dtype.itemsize == 2) or constants is not None
    most = 255 if spills else None
    return backward_launch(
        lif_backward_kernel, grad_spikes, current, words, checkpoints, state, grad_current,
        settings=backward_constants(params, words), synapse=synapse, max_registers=most,
        constants=constants, grad_constants=grad_constants, carry=carry,
    )  # fmt: skip


def backward_constants(params: NeuronConstants, words: Tensor) -> dict[str, Any]:
    """The backward kernel's own arguments: all of them compile-time constants, but for the number of words."""
    return {
        "words": len(words),
        **forward_constants(params),
        # Variants without a term have the factor 0 in it and so the code, and the registers, of the one with all.
        "INTRA": 0.0 if params.variant == "no-intra" else 1.0 / params.tau_mem,
        "LEAK": 0.0 if params.variant == "no-leak" else 1.0 - 1.0 / params.tau_mem,
        "MAX_SLOPE": params.max_slope,
        "SURROGATE_CLIP": SURROGATE_CLIP,
        "INV_SURROGATE_WIDTH": 1.0 / SURROGATE_WIDTH,
        "PAPER": params.variant == "paper",
        "WARMUP": params.warmup,
    }
