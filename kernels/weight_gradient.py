"""Weight gradient of a layer from the packed bits of its input: no float spike tensor is made.

    dW[n, c, r, s] = sum over t, m of e[t, m, n] x[t, pixel of m shifted by (r, s), c]        e = dL/dy

A program owns a tile of BLOCK_K channels by BLOCK_N neurons at one position (r, s) and a share of the output pixels m
(see `tiles`). It reads a tile of words once for all 32 steps in it and unpacks each step's bits in registers, as the
matrix product's first operand. Shares are summed by a second pass, not by atomics: the result is the same bit for bit.

Memory traffic: e once per tile of channels, bits once per tile of neurons (from the cache where it holds them), the
partial sums twice.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .geometry import Geometry
from .layout import WORD, cdiv
from .plan import Launch, TilePlan, plan_weight_gradient
from .tiles import input_tile, operand_type, pixel_of, spikes_of


# How long a run is and how many samples it has changes nothing in the code.
@triton.jit(do_not_specialize=["T", "M", "in_words", "share"])
def weight_gradient_kernel(
    # tensors
    grad_current_ptr,  # (T, M, N): e
    inputs_ptr,  # input spikes, packed (in_words, B, C, H, W)
    partial_ptr,  # (shares, N, C, R, S) float32, in the memory order of the weight
    # sizes
    T,
    M,  # B OUT_H OUT_W
    N,
    C,
    H,
    W,
    OUT_H,
    OUT_W,
    in_words,
    share,  # pixels in one share, a multiple of BLOCK_M
    # strides, in elements
    stride_in_word,
    stride_in_b,
    stride_in_c,
    stride_in_h,
    stride_in_w,
    stride_share,
    stride_weight_n,
    stride_weight_c,
    stride_weight_r,
    stride_weight_s,
    # geometry of the kernel
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr,
    PAD_W: tl.constexpr,
    # shape of the program
    WORD: tl.constexpr,
    OPERAND: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    channel_blocks = tl.cdiv(C, BLOCK_K)
    position = tl.program_id(1) // channel_blocks
    c = (tl.program_id(1) % channel_blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
    r = position // S
    s = position % S
    first = tl.program_id(2) * share
    word_row = tl.cast(stride_in_word, tl.int64)
    row = tl.cast(M, tl.int64) * N

    total = tl.zeros([BLOCK_K, BLOCK_N], tl.float32)
    for start in range(first, tl.minimum(first + share, M), BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        image, top, left = pixel_of(m, OUT_H, OUT_W, STRIDE_H, STRIDE_W, PAD_H, PAD_W)
        image_ptr = inputs_ptr + image.to(tl.int64) * stride_in_b
        grad_ptr = grad_current_ptr + m.to(tl.int64)[:, None] * N + n[None, :]
        mask = (m < M)[:, None] & (n < N)[None, :]
        for word in range(in_words):
            word_ptr = image_ptr + word * word_row
            bits = input_tile(word_ptr, top + r, left + s, m < M, c, C, H, W, stride_in_c, stride_in_h, stride_in_w)
            bits = tl.trans(bits)  # [BLOCK_K, BLOCK_M]
            for k in range(tl.minimum(T - word * WORD, WORD)):
                e = tl.load(grad_ptr + (word * WORD + k) * row, mask=mask, other=0.0)
                x = spikes_of(bits, tl.full([1, 1], 1, tl.int32) << k, OPERAND)
                total = tl.dot(x, e.to(OPERAND), total, input_precision="ieee")
    weight_ptr = partial_ptr + tl.program_id(2).to(tl.int64) * stride_share + r * stride_weight_r + s * stride_weight_s
    tl.store(
        weight_ptr + c[:, None] * stride_weight_c + n[None, :].to(tl.int64) * stride_weight_n,
        total,
        mask=(c < C)[:, None] & (n < N)[None, :],
    )


def weight_gradient(grad_current: Tensor, inputs: Tensor, weight: Tensor, *, steps: int, geometry: Geometry) -> Tensor:
    """dL/dW in the shape, memory order and dtype of ``weight (N, C, R, S)``.

    Args:
        grad_current: e = dL/dy, ``(T, M, N)``, M = B out_h out_w.
        inputs: packed input spikes ``(in_words, B, C, H, W)``.
        weight: only its shape, strides and dtype are read.
        steps: T.
        geometry: sizes of the convolution.
    """
    plan = plan_weight_gradient(grad_current.shape[1], weight, grad_current.dtype)
    partial = torch.empty_strided(
        (plan.shares, *weight.shape), (weight.numel(), *weight.stride()), dtype=torch.float32, device=weight.device
    )
    launch = weight_gradient_launch(grad_current, inputs, partial, steps=steps, geometry=geometry, tiles=plan.tiles)
    launch.run(inputs)
    total = partial[0] if plan.shares == 1 else partial.sum(0)
    return total.to(weight.dtype)


def weight_gradient_launch(
    grad_current: Tensor, inputs: Tensor, partial: Tensor, *, steps: int, geometry: Geometry, tiles: TilePlan
) -> Launch:
    """The launch that fills ``partial (shares, N, C, R, S)``, one sum for each share of the pixels."""
    shares, neurons, channels, *kernel = partial.shape
    pixels = grad_current.shape[1]
    arguments = {
        "grad_current_ptr": grad_current,
        "inputs_ptr": inputs,
        "partial_ptr": partial,
        "T": steps,
        "M": pixels,
        "N": neurons,
        **geometry.arguments(inputs, partial[0]),
        "in_words": len(inputs),
        "share": cdiv(cdiv(pixels, shares), tiles.block_m) * tiles.block_m,
        "stride_share": partial.stride(0),
        "WORD": WORD,
        "OPERAND": operand_type(grad_current.dtype),
        **tiles.blocks(),
    }
    positions = kernel[0] * kernel[1] * cdiv(channels, tiles.block_k)
    grid = (tiles.tiles_n(neurons), positions, shares)
    # Left to itself, the assembler may save registers for one more program at once, and spill.
    return Launch(weight_gradient_kernel, grid, arguments, tiles.num_warps, tiles.num_stages, max_registers=255)
