"""Tiles of packed input spikes, as the matrix product of a convolution sees them, without spelling it out in memory.

Row m of the product is an output pixel (sample, row, column); column k is an input channel at one position (r, s) of
the kernel. A fully connected layer has one pixel a sample and one position.
"""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl


def operand_type(dtype: torch.dtype) -> tl.dtype:
    """The type that ``tl.dot`` multiplies in. Spikes are exact in any.

    Triton's interpreter multiplies the bit patterns of bfloat16, so there it is float32: the products are the same.
    """
    if dtype == torch.float16:
        return tl.float16
    if dtype == torch.bfloat16 and os.environ.get("TRITON_INTERPRET") != "1":
        return tl.bfloat16
    return tl.float32


@triton.jit
def pixel_of(
    m,
    OUT_H,
    OUT_W,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr,
    PAD_W: tl.constexpr,
):
    """Sample of output pixel m, and the input row and column under its kernel's first element."""
    image = m // (OUT_H * OUT_W)
    top = (m // OUT_W) % OUT_H * STRIDE_H - PAD_H
    left = m % OUT_W * STRIDE_W - PAD_W
    return image, top, left


@triton.jit
def input_tile(image_ptr, h, w, valid, c, C, H, W, stride_c, stride_h, stride_w):
    """Packed words of pixels (h, w) [BLOCK_M] and channels c [BLOCK_K]; 0 outside the image."""
    inside = valid & (h >= 0) & (h < H) & (w >= 0) & (w < W)
    pixel_ptr = image_ptr + h * stride_h + w * stride_w
    words = tl.load(
        pixel_ptr[:, None] + c[None, :] * stride_c,
        mask=inside[:, None] & (c < C)[None, :],
        other=0,
    )
    return words.to(tl.int32)


@triton.jit
def spikes_of(words, bit, OPERAND: tl.constexpr):
    """Spikes 0 and 1 of the step whose ``bit`` of each word is set; masking is one instruction less than shifting."""
    return tl.where((words & bit) != 0, 1.0, 0.0).to(OPERAND)
