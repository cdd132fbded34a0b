"""The membrane as every kernel of a neuron has it: its steps, its state in memory, its replay, its constants.

Forward steps through it once (`tssl_triton.kernels.neuron`, `tssl_triton.kernels.fused`). Each backward kernel walks
windows of time from the last to the first; in each it replays forward from the saved input and the saved spikes, which
leaves the membrane potentials of the window in registers, and then walks back by its learning rule.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import triton
import triton.language as tl
from torch import Tensor

from .layout import WINDOW, WORD, cdiv, size_of
from .plan import Launch, plan_neurons

LOG2E = tl.constexpr(1.4426950408889634)
"""log2(e): the device computes powers of two."""


class NeuronConstants(Protocol):
    """What the launchers read of the layer's parameters."""

    tau_mem: float
    tau_syn: float
    threshold: float
    reset: str
    max_slope: float
    warmup: str
    variant: str


# A constant of the neurons, in lower case below, is a number known while compiling, or a block with one for each.


@triton.jit
def spread(value, like):
    """A constant as a block shaped as ``like``."""
    if isinstance(value, tl.tensor):
        return value
    else:
        return tl.full(like.shape, value, like.dtype)


@triton.jit
def after_reset(u, fired, threshold, SUBTRACT: tl.constexpr):
    """v[t] from u[t] and s[t]."""
    if SUBTRACT:
        return tl.where(fired, u - threshold, u)
    else:
        return tl.where(fired, 0.0, u)


@triton.jit
def times_plus(x, factor, y):
    """factor x + y, rounded once.

    Every sum of products is spelled out as such and no other is fused (`Launch.contract`). Which of two products a
    compiler fuses into their sum is its choice, and it chooses unlike for the neurons of one thread: equal neurons
    would differ in their last place by where they are in memory.
    """
    return tl.fma(x, spread(factor, x), y)


@triton.jit
def reset_by(u, s, threshold, SUBTRACT: tl.constexpr):
    """The same from a spike that is 0.0 or 1.0: exact, and one instruction without a predicate."""
    if SUBTRACT:
        return times_plus(s, -threshold, u)
    else:
        return tl.fma(-s, u, u)


@triton.jit
def membrane_step(v, i, alpha):
    """u[t] from v[t-1] and i[t]."""
    return times_plus(v, alpha, i)


@triton.jit
def filter_step(before, x, beta, inv_tau_syn):
    """One step of the synaptic filter: that of y, of a neuron's own spikes, and backwards of its error."""
    return times_plus(x, inv_tau_syn, beta * before)


@triton.jit
def synapse_step(i, y, beta, inv_tau_syn, SYNAPSE: tl.constexpr):
    """i[t] from i[t-1] and y[t]."""
    if SYNAPSE:
        return filter_step(i, y, beta, inv_tau_syn)
    else:
        return y


@triton.jit
def reciprocal(x):
    """1/x for x > 0 as the square of a reciprocal root: two instructions where a division takes eight.

    The root is right to 2^-22.9 on NVIDIA's units, its square to 2.6e-7: two units in float32's last place.
    """
    root = tl.math.rsqrt(x)
    return root * root


@triton.jit
def distance(u, threshold, SCALE: tl.constexpr):
    """abs(SCALE (u - threshold))."""
    x = times_plus(u, SCALE, spread(threshold * -SCALE, u))
    return tl.maximum(x, -x)  # tl.abs fails under the interpreter


@triton.jit
def load_constants(constants_ptr, stride, mask, ACC: tl.constexpr):
    """alpha, beta, 1/tau_mem, 1/tau_syn and the threshold of each neuron, from rows tau_mem, tau_syn and threshold."""
    inv_tau_mem = _exact_reciprocal(tl.load(constants_ptr, mask=mask, other=1.0).to(ACC))
    inv_tau_syn = _exact_reciprocal(tl.load(constants_ptr + stride, mask=mask, other=1.0).to(ACC))
    threshold = tl.load(constants_ptr + 2 * stride, mask=mask, other=1.0).to(ACC)
    return 1.0 - inv_tau_mem, 1.0 - inv_tau_syn, inv_tau_mem, inv_tau_syn, threshold


@triton.jit
def _exact_reciprocal(x):
    """1/x to the last place, as the host divides: a neuron fires alike whether its constants are learnt or not."""
    if x.dtype == tl.float64:
        return 1.0 / x
    else:
        return tl.div_rn(tl.full(x.shape, 1.0, x.dtype), x)


@triton.jit
def load_state(state_ptr, stride, mask, ACC: tl.constexpr):
    i = tl.load(state_ptr, mask=mask, other=0.0).to(ACC)
    v = tl.load(state_ptr + stride, mask=mask, other=0.0).to(ACC)
    a = tl.load(state_ptr + 2 * stride, mask=mask, other=0.0).to(ACC)
    return i, v, a


@triton.jit
def store_state(state_ptr, stride, mask, i, v, a):
    tl.store(state_ptr, i, mask=mask)
    tl.store(state_ptr + stride, v, mask=mask)
    tl.store(state_ptr + 2 * stride, a, mask=mask)


@triton.jit
def load_carry(carry_ptr, stride, mask, ACC: tl.constexpr):
    delta = tl.load(carry_ptr, mask=mask, other=0.0).to(ACC)
    e = tl.load(carry_ptr + stride, mask=mask, other=0.0).to(ACC)
    return delta, e


@triton.jit
def store_carry(carry_ptr, stride, mask, delta, e):
    tl.store(carry_ptr, delta, mask=mask)
    tl.store(carry_ptr + stride, e, mask=mask)


@triton.jit
def time_constant_errors(of_tau_mem, of_tau_syn, emitted, u, rest, e, e_after, alpha, SYNAPSE: tl.constexpr):
    """Both sums with a step added: of its dL/du and dL/dy, ``emitted`` and ``e``, u[t], v[t-1], and the next step's e.

    As i[t] is beta i[t-1] + y[t] / tau_syn, the sum of e[t] (i[t-1] - y[t]) / tau_syn is that of e[t] (i[t-1] - i[t]),
    or of i[t] (e[t+1] - e[t]) and the first step's e i[-1]; and i[t] = u[t] - alpha v[t-1]: y is not read again.
    """
    of_tau_mem = tl.fma(emitted, rest, of_tau_mem)
    if SYNAPSE:
        of_tau_syn = tl.fma(tl.fma(-alpha, rest, u), e_after - e, of_tau_syn)
    return of_tau_mem, of_tau_syn


@triton.jit
def store_constant_errors(
    grad_constants_ptr,
    stride,
    mask,
    of_tau_mem,
    of_tau_syn,
    of_threshold,
    e,  # of the first step
    i,  # before it
    inv_tau_mem,
    SYNAPSE: tl.constexpr,
    ADD: tl.constexpr,  # to what is there
):
    """The gradients of tau_mem, tau_syn and the threshold."""
    of_tau_mem *= inv_tau_mem * inv_tau_mem
    if SYNAPSE:
        of_tau_syn = tl.fma(e, i, of_tau_syn)
    if ADD:
        of_tau_mem += tl.load(grad_constants_ptr, mask=mask, other=0.0)
        of_tau_syn += tl.load(grad_constants_ptr + stride, mask=mask, other=0.0)
        of_threshold += tl.load(grad_constants_ptr + 2 * stride, mask=mask, other=0.0)
    tl.store(grad_constants_ptr, of_tau_mem, mask=mask)
    tl.store(grad_constants_ptr + stride, of_tau_syn, mask=mask)
    tl.store(grad_constants_ptr + 2 * stride, of_threshold, mask=mask)


@triton.jit
def replay(
    # tensors and size
    current_ptr,  # at the window's first step
    stride,
    mask,
    # spikes of the window as bits, and the state before it
    bits,
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
    QUIET: tl.constexpr,  # whether to find the steps without a recent spike
    STEPS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Forward again from y, with forward's own spikes: u of STEPS steps, and where a < 1/(4 tau_syn) as bits.

    Only u is kept per step: v follows from u and the spike.
    """
    us = ()
    below = tl.zeros_like(bits)
    if STATIC:
        y = tl.load(current_ptr, mask=mask, other=0.0).to(ACC)
    for k in tl.static_range(STEPS):
        if not STATIC:
            y = tl.load(current_ptr + k * stride, mask=mask, other=0.0).to(ACC)
        fired = ((bits >> k) & 1) != 0
        i = synapse_step(i, y, beta, inv_tau_syn, SYNAPSE)
        u = membrane_step(v, i, alpha)
        us = us + (u,)  # noqa: RUF005 - the compiler knows concatenation, not unpacking
        v = after_reset(u, fired, threshold, SUBTRACT)
        if QUIET:
            a = times_plus(a, beta, tl.where(fired, inv_tau_syn, 0.0))
            below |= tl.where(a < 0.25 * inv_tau_syn, 1 << k, 0)
    return us, below


def backward_launch(
    kernel: Any,
    grad_spikes: Tensor,
    current: Tensor,
    words: Tensor,
    checkpoints: Tensor | None,
    state: Tensor | None,
    grad_current: Tensor,
    *,
    settings: dict[str, Any],
    synapse: bool,
    max_registers: int | None,
    constants: Tensor | None,
    grad_constants: Tensor | None,
    carry: Tensor | None,
) -> Launch:
    """The launch of a backward kernel, whose own arguments are ``settings``."""
    steps, neurons = size_of(grad_spikes)
    plan = plan_neurons(neurons, current.dtype, constants is not None)
    arguments = {
        "grad_spikes_ptr": grad_spikes,
        "current_ptr": current,
        "words_ptr": words,
        "checkpoints_ptr": checkpoints if checkpoints is not None and len(checkpoints) else None,
        "state_ptr": state,
        "grad_current_ptr": grad_current,
        "constants_ptr": constants,
        "grad_constants_ptr": grad_constants,
        "carry_ptr": carry,
        "N": neurons,
        **settings,
        "SYNAPSE": synapse,
        "STATIC": len(current) < steps,
        "HAS_STATE": state is not None,
        "LEARNT": constants is not None,
        "HAS_CARRY": carry is not None,
        **program(steps, current.dtype),
        "BLOCK": plan.block,
    }
    return Launch(kernel, (plan.grid(neurons),), arguments, plan.num_warps, max_registers=max_registers, contract=False)


def forward_constants(params: NeuronConstants) -> dict[str, Any]:
    """Compile-time constants of the forward kernel."""
    return {
        "ALPHA": 1.0 - 1.0 / params.tau_mem,
        "BETA": 1.0 - 1.0 / params.tau_syn,
        "INV_TAU_SYN": 1.0 / params.tau_syn,
        "THRESHOLD": params.threshold,
        "SUBTRACT": params.reset == "subtract",
    }


def program(steps: int, dtype: torch.dtype) -> dict[str, Any]:
    """Shape of the program for a run of ``steps`` steps."""
    full_windows = cdiv(steps, WINDOW) - 1
    return {
        "full_windows": full_windows,
        "LONG": full_windows > 0,
        "LAST": steps - full_windows * WINDOW,
        "WINDOW": WINDOW,
        "PER_WORD": WORD // WINDOW,
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
    }
