"""A weighted layer of spiking neurons in one kernel: bits in, bits out; neither float spikes nor y need reach memory.

For each output neuron (m, n), m a sample of a fully connected layer or a pixel of a convolution's output::

    y[t, m, n] = sum over r, s, c of weight[n, c, r, s] x[t, pixel of m shifted by (r, s), c]  (+ bias[n])
    i[t], u[t], s[t], v[t] from y[t]: eqs. (3)-(5), see `neuron`

A program owns a tile of BLOCK_M x BLOCK_N neurons and walks time: each step is a matrix product of the tile's input
bits, unpacked in registers, with weights that stay in cache from step to step, followed by synapse and membrane, whose
state never leaves registers. A fully connected layer is the convolution of 1x1 images with a 1x1 kernel; the compiler
folds sizes of 1 away. y is rounded to the tensors' type before the neuron sees it, as when it is stored between a
matrix product and the neuron, so that saving it, computing it again and not fusing at all mean the same numbers.

16-bit weights go to the tensor cores with float32 sums; float32 is multiplied exactly as float32 ("ieee").

Memory traffic per output neuron-step, T = 5 (one byte holds the bits): 1/5 byte of spikes; y, where it is saved for
backward, 4 bytes (2 in 16 bits); dense spikes, where they are asked for, as much again. Input bits and weights are
read from memory once where the caches hold them; from the caches each program reads its share once a step.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .geometry import Geometry
from .layout import WINDOW, WORD
from .membrane import (
    NeuronConstants,
    after_reset,
    forward_constants,
    load_state,
    membrane_step,
    store_state,
    synapse_step,
    times_plus,
)
from .plan import Launch, plan_tiles
from .tiles import input_tile, operand_type, pixel_of, spikes_of


# How long a run is and how many samples it has changes nothing in the code.
@triton.jit(do_not_specialize=["T", "M"])
def spike_weighted_kernel(
    # tensors
    inputs_ptr,  # input spikes, packed (in_words, B, C, H, W)
    weight_ptr,  # (N, C, R, S)
    bias_ptr,  # (N,), with HAS_BIAS
    words_ptr,  # (words, M, N): output spikes, packed, with KEEP
    spikes_ptr,  # (T, M, N): output spikes, with EMIT
    current_ptr,  # (T, M, N): y, with SAVE
    checkpoints_ptr,  # (3 full_windows, M, N), with CHECKPOINTS
    state_ptr,  # (3, M, N), with HAS_STATE
    new_state_ptr,  # (3, M, N), with CARRY
    # sizes
    T,
    M,  # B OUT_H OUT_W
    N,
    C,
    H,
    W,
    OUT_H,
    OUT_W,
    # strides, in elements
    stride_in_word,
    stride_in_b,
    stride_in_c,
    stride_in_h,
    stride_in_w,
    stride_weight_n,
    stride_weight_c,
    stride_weight_r,
    stride_weight_s,
    # constants
    ALPHA: tl.constexpr,
    BETA: tl.constexpr,
    INV_TAU_SYN: tl.constexpr,
    THRESHOLD: tl.constexpr,
    # options
    SUBTRACT: tl.constexpr,
    SYNAPSE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    KEEP: tl.constexpr,
    EMIT: tl.constexpr,
    SAVE: tl.constexpr,
    CHECKPOINTS: tl.constexpr,
    HAS_STATE: tl.constexpr,
    CARRY: tl.constexpr,
    # geometry of the kernel
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr,
    PAD_W: tl.constexpr,
    # shape of the program
    WINDOW: tl.constexpr,
    WORD: tl.constexpr,
    OPERAND: tl.constexpr,  # type that the matrix product multiplies in
    STORED: tl.constexpr,  # type of y between product and neuron
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    image, top, left = pixel_of(m, OUT_H, OUT_W, STRIDE_H, STRIDE_W, PAD_H, PAD_W)
    image_ptr = inputs_ptr + image.to(tl.int64) * stride_in_b

    # One row of time is M N neurons; T M N may pass 2^31.
    word_row = tl.cast(stride_in_word, tl.int64)
    row = tl.cast(M, tl.int64) * N
    own = m.to(tl.int64)[:, None] * N + n[None, :]
    mask = (m < M)[:, None] & (n < N)[None, :]
    if HAS_STATE:
        i, v, a = load_state(state_ptr + own, row, mask, tl.float32)
    else:
        i = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        v = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        a = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    word = tl.zeros([BLOCK_M, BLOCK_N], tl.int32)
    channel_blocks = tl.cdiv(C, BLOCK_K)

    for t in range(T):
        # 1. y: input bits times weights, over kernel positions (r, s) and blocks of channels.
        y = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        bit = tl.full([1, 1], 1, tl.int32) << (t % WORD)
        step_ptr = image_ptr + (t // WORD) * word_row
        for chunk in range(R * S * channel_blocks):
            position = chunk // channel_blocks
            r = position // S
            s = position % S
            c = (chunk % channel_blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
            bits = input_tile(step_ptr, top + r, left + s, m < M, c, C, H, W, stride_in_c, stride_in_h, stride_in_w)
            x = spikes_of(bits, bit, OPERAND)
            tile_ptr = weight_ptr + r * stride_weight_r + s * stride_weight_s
            weight = tl.load(
                tile_ptr + c[:, None] * stride_weight_c + n[None, :].to(tl.int64) * stride_weight_n,
                mask=(c < C)[:, None] & (n < N)[None, :],
                other=0.0,
            )
            y = tl.dot(x, weight.to(OPERAND), y, input_precision="ieee")
        if HAS_BIAS:
            y += bias[None, :]
        rounded = y.to(STORED)
        if SAVE:
            tl.store(current_ptr + t * row + own, rounded, mask=mask)

        # 2. Synapse, membrane, threshold, reset.
        i = synapse_step(i, rounded.to(tl.float32), BETA, INV_TAU_SYN, SYNAPSE)
        u = membrane_step(v, i, ALPHA)
        fired = u > THRESHOLD
        v = after_reset(u, fired, THRESHOLD, SUBTRACT)
        if CHECKPOINTS or CARRY:
            a = times_plus(a, BETA, tl.where(fired, INV_TAU_SYN, 0.0))
        if EMIT:
            spike = tl.where(fired, 1.0, 0.0).to(spikes_ptr.dtype.element_ty)
            tl.store(spikes_ptr + t * row + own, spike, mask=mask)

        # 3. Bits into the word, which is written when it is full; state, where backward will want it.
        if KEEP:
            word = tl.where(t % WORD == 0, 0, word) | (fired.to(tl.int32) << (t % WORD))
            if (t % WORD == WORD - 1) | (t == T - 1):
                tl.store(words_ptr + (t // WORD) * row + own, word.to(words_ptr.dtype.element_ty), mask=mask)
        if CHECKPOINTS:  # noqa: SIM102 - decided while compiling, unlike the next
            if (t % WINDOW == WINDOW - 1) & (t < T - 1):
                store_state(checkpoints_ptr + 3 * (t // WINDOW) * row + own, row, mask, i, v, a)
    if CARRY:
        store_state(new_state_ptr + own, row, mask, i, v, a)


def spike_weighted(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    words: Tensor | None,
    spikes: Tensor | None,
    current: Tensor | None,
    checkpoints: Tensor | None,
    state: Tensor | None,
    new_state: Tensor | None,
    *,
    steps: int,
    geometry: Geometry,
    params: NeuronConstants,
) -> None:
    """Fill the outputs that are not None from packed ``inputs (in_words, B, C, H, W)`` and ``weight (N, C, R, S)``.

    Outputs are dense with the neurons of one pixel side by side: packed ``words (words, M, N)``, ``spikes`` and
    ``current (T, M, N)``, ``checkpoints (3 full_windows, M, N)``, ``new_state (3, M, N)``; M = B out_h out_w. y
    has the type of ``weight``.
    """
    launch = spike_weighted_launch(
        inputs, weight, bias, words, spikes, current, checkpoints, state, new_state,
        steps=steps, geometry=geometry, params=params,
    )  # fmt: skip
    launch.run(inputs)


def spike_weighted_launch(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    words: Tensor | None,
    spikes: Tensor | None,
    current: Tensor | None,
    checkpoints: Tensor | None,
    state: Tensor | None,
    new_state: Tensor | None,
    *,
    steps: int,
    geometry: Geometry,
    params: NeuronConstants,
) -> Launch:
    """The launch of `spike_weighted`."""
    neurons = len(weight)
    pixels = inputs.shape[1] * geometry.out_h * geometry.out_w
    carried = state is not None or new_state is not None
    plan = plan_tiles(neurons, weight.shape[1], weight.dtype, inputs.dtype, carried)
    kept = checkpoints if checkpoints is not None and len(checkpoints) else None
    stored = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}.get(weight.dtype, tl.float32)
    arguments: dict[str, Any] = {
        "inputs_ptr": inputs,
        "weight_ptr": weight,
        "bias_ptr": bias,
        "words_ptr": words,
        "spikes_ptr": spikes,
        "current_ptr": current,
        "checkpoints_ptr": kept,
        "state_ptr": state,
        "new_state_ptr": new_state,
        "T": steps,
        "M": pixels,
        "N": neurons,
        **geometry.arguments(inputs, weight),
        **forward_constants(params),
        "SYNAPSE": True,
        "HAS_BIAS": bias is not None,
        "KEEP": words is not None,
        "EMIT": spikes is not None,
        "SAVE": current is not None,
        "CHECKPOINTS": kept is not None,
        "HAS_STATE": state is not None,
        "CARRY": new_state is not None,
        "WINDOW": WINDOW,
        "WORD": WORD,
        "OPERAND": operand_type(weight.dtype),
        "STORED": stored,
        **plan.blocks(),
    }
    grid = (plan.tiles_n(neurons), plan.tiles_m(pixels))
    # Left to itself, the assembler may halve the registers to run a second program at once, and spill.
    return Launch(spike_weighted_kernel, grid, arguments, plan.num_warps, plan.num_stages, max_registers=255)
