"""Seeing tensors of any dense layout as ``(T, N)`` in memory order, without copying.

The neuron is elementwise, so the kernels need not know what the axes after time mean; they need each step to be one
dense block. A channels_last convolution output is, and so are its spikes, which are allocated in the same order.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def is_time_dense(x: Tensor) -> bool:
    """Whether each step of ``x (T, *)`` is dense in memory, in any axis order, and steps follow one another."""
    if x.is_contiguous():
        return True
    if x.numel() == 0:
        return False
    expected = 1
    for stride, size in sorted(zip(x.stride()[1:], x.shape[1:], strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return x.shape[0] == 1 or x.stride(0) == expected


def time_dense(x: Tensor) -> Tensor:
    """``x`` itself where each of its steps is dense, else a contiguous copy."""
    return x if x.is_contiguous() or is_time_dense(x) else x.contiguous()


def empty_rows(rows: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """An empty ``(rows, *like.shape[1:])`` whose rows have the memory order of a step of ``like``."""
    shape = (rows, *like.shape[1:])
    if like.is_contiguous():
        return torch.empty(shape, dtype=dtype, device=like.device)
    return torch.empty_strided(shape, _strides(like), dtype=dtype, device=like.device)


def in_layout_of(x: Tensor, like: Tensor) -> Tensor:
    """``x (rows, *)`` in the memory order of a step of ``like``: itself where it is so already, else a copy."""
    if x.is_contiguous() and like.is_contiguous():
        return x
    wanted = _strides(like)
    sizes = zip(x.shape, x.stride(), wanted, strict=True)
    if all(size == 1 or stride == want for size, stride, want in sizes):
        return x
    return torch.empty_strided(x.shape, wanted, dtype=x.dtype, device=x.device).copy_(x)


def flat(x: Tensor) -> Tensor:
    """The ``(rows, N)`` view in memory order of a tensor whose rows are dense."""
    n = math.prod(x.shape[1:])
    return x.as_strided((x.shape[0], n), (n, 1))


def _strides(like: Tensor) -> tuple[int, ...]:
    """Strides of rows in the memory order of ``like``; axes of one element get the stride that a dense layout gives."""
    return (math.prod(like.shape[1:]), *like.stride()[1:])
