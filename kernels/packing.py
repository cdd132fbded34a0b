"""Spike trains to packed words and back: bit ``t % 32`` of word ``t // 32`` is step t.

One program handles BLOCK neurons of one word. Packing reads 4 bytes (2 in 16 bits) per neuron-step and writes one
bit; unpacking the other way round.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .layout import WORD, size_of
from .plan import Launch, plan_neurons


@triton.jit
def pack_kernel(
    spikes_ptr,  # (T, N)
    words_ptr,  # (words, N) integer
    T,
    N,
    WORD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    w = tl.program_id(1)
    n = tl.arange(0, BLOCK)
    mask = n < N - start
    stride = tl.cast(N, tl.int64)
    spikes_ptr += w * WORD * stride + start + n
    word = tl.zeros([BLOCK], tl.int32)
    for k in range(tl.minimum(T - w * WORD, WORD)):
        s = tl.load(spikes_ptr + k * stride, mask=mask, other=0)
        word |= (s != 0).to(tl.int32) << k
    tl.store(words_ptr + w * stride + start + n, word.to(words_ptr.dtype.element_ty), mask=mask)


@triton.jit
def unpack_kernel(
    words_ptr,  # (words, N) integer
    spikes_ptr,  # (T, N)
    T,
    N,
    WORD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    w = tl.program_id(1)
    n = tl.arange(0, BLOCK)
    mask = n < N - start
    stride = tl.cast(N, tl.int64)
    spikes_ptr += w * WORD * stride + start + n
    word = tl.load(words_ptr + w * stride + start + n, mask=mask, other=0).to(tl.int32)
    for k in range(tl.minimum(T - w * WORD, WORD)):
        s = (word >> k) & 1
        # By way of float32: the interpreter has no cast from an integer to bfloat16.
        tl.store(spikes_ptr + k * stride, s.to(tl.float32).to(spikes_ptr.dtype.element_ty), mask=mask)


def pack(spikes: Tensor, words: Tensor) -> None:
    """Fill ``words`` with the bits of ``spikes (T, N)``."""
    pack_launch(spikes, words).run(spikes)


def unpack(words: Tensor, spikes: Tensor) -> None:
    """Fill ``spikes (T, N)`` from ``words``."""
    unpack_launch(words, spikes).run(spikes)


def pack_launch(spikes: Tensor, words: Tensor) -> Launch:
    """The launch of `pack`."""
    return _launch(pack_kernel, spikes, words)


def unpack_launch(words: Tensor, spikes: Tensor) -> Launch:
    """The launch of `unpack`."""
    return _launch(unpack_kernel, spikes, words)


def _launch(kernel: Any, spikes: Tensor, words: Tensor) -> Launch:
    steps, neurons = size_of(spikes)
    plan = plan_neurons(neurons, spikes.dtype)
    arguments = {
        "spikes_ptr": spikes,
        "words_ptr": words,
        "T": steps,
        "N": neurons,
        "WORD": WORD,
        "BLOCK": plan.block,
    }
    return Launch(kernel, (plan.grid(neurons), len(words)), arguments, plan.num_warps)
