"""The first-order synaptic filter and its transpose in time.

    a[t] = beta a[t-1] + s[t] / tau_syn

The transpose is the same recurrence run from the last step to the first, so one kernel serves both. Per neuron-step
it reads one value and writes one: 8 bytes in float32, 4 in 16 bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .layout import size_of
from .membrane import filter_step
from .plan import Launch, plan_neurons


@triton.jit
def psc_kernel(
    # tensors
    inputs_ptr,  # (T, N)
    outputs_ptr,  # (T, N)
    state_ptr,  # (1, N): a before the first step, with HAS_STATE
    new_state_ptr,  # (1, N): a after the last, with CARRY
    # sizes
    T,
    N,
    # constants
    BETA: tl.constexpr,
    INV_TAU_SYN: tl.constexpr,
    # options
    REVERSE: tl.constexpr,
    HAS_STATE: tl.constexpr,
    CARRY: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    n = tl.arange(0, BLOCK)
    mask = n < N - start
    step = tl.cast(N, tl.int64)
    offset = start
    if REVERSE:
        offset += (T - 1) * step
        step = -step
    inputs_ptr += offset + n
    outputs_ptr += offset + n
    if HAS_STATE:
        a = tl.load(state_ptr + start + n, mask=mask, other=0.0).to(ACC)
    else:
        a = tl.zeros([BLOCK], ACC)
    for _ in tl.range(T, loop_unroll_factor=4):
        a = filter_step(a, tl.load(inputs_ptr, mask=mask, other=0.0).to(ACC), BETA, INV_TAU_SYN)
        tl.store(outputs_ptr, a.to(outputs_ptr.dtype.element_ty), mask=mask)
        inputs_ptr += step
        outputs_ptr += step
    if CARRY:
        tl.store(new_state_ptr + start + n, a, mask=mask)


def psc(
    inputs: Tensor, outputs: Tensor, state: Tensor | None, new_state: Tensor | None, *, tau_syn: float, reverse: bool
) -> None:
    """Filter ``inputs (T, N)`` forwards in time, or backwards (the transpose).

    A ``state (1, N)`` of None is 0; a ``new_state (1, N)`` of None is not written.
    """
    psc_launch(inputs, outputs, state, new_state, tau_syn=tau_syn, reverse=reverse).run(inputs)


def psc_launch(
    inputs: Tensor, outputs: Tensor, state: Tensor | None, new_state: Tensor | None, *, tau_syn: float, reverse: bool
) -> Launch:
    """The launch of `psc`."""
    steps, neurons = size_of(inputs)
    plan = plan_neurons(neurons, inputs.dtype)
    arguments = {
        "inputs_ptr": inputs,
        "outputs_ptr": outputs,
        "state_ptr": state,
        "new_state_ptr": new_state,
        "T": steps,
        "N": neurons,
        "BETA": 1.0 - 1.0 / tau_syn,
        "INV_TAU_SYN": 1.0 / tau_syn,
        "REVERSE": reverse,
        "HAS_STATE": state is not None,
        "CARRY": new_state is not None,
        "ACC": tl.float64 if inputs.dtype == torch.float64 else tl.float32,
        "BLOCK": plan.block,
    }
    return Launch(psc_kernel, (plan.grid(neurons),), arguments, plan.num_warps, contract=False)
