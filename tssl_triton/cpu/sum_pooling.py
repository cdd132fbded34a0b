"""Sum pooling of spike trains, its transpose, and pooling from packed bits.

Both directions are limited by memory bandwidth, and PyTorch's own pooling is three to eight times slower than that. The
C++ reads and writes each number once; from packed bits it counts, reading an eighth or less of what spikes take.
Without a compiler, strided strips of the tensor are added. All ways give the same numbers: they add the rows of a
window first, then its columns.

Windows do not overlap; rows and columns that fill no window are left out.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from tssl_triton.kernels.layout import arithmetic_dtype

from .compiler import compiled, library, read_source
from .types import HALVES, conversions

REALS = (torch.float32, torch.float64, *HALVES)
"""Types of sums. 16-bit sums are computed in float32 and rounded once."""

Function = Literal["add", "spread", "count"]


def sum_pool(x: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    """``scale`` times the sum over each window of ``x (B, C, H, W)``: ``(B, C, H', W')`` in the memory format of x."""
    function = _function("add", x, x.dtype, size)
    if function is None:
        return (_strip_sums(x.to(arithmetic_dtype(x.dtype)), size) * scale).to(x.dtype)
    sums = _empty_pooled(x, len(x), x.dtype, size, _memory_format(x))
    _call(function, x, sums, x, scale)
    return sums


def spread_pool(grad: Tensor, shape: Sequence[int], size: tuple[int, int], scale: float) -> Tensor:
    """The transpose of `sum_pool`: ``shape (B, C, H, W)`` with each window's ``grad``, scaled, at its elements."""
    function = _function("spread", grad, grad.dtype, size)
    if function is None:
        return _spread_strips(grad * scale, shape, size)
    spread = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=_memory_format(grad))
    _call(function, grad, spread, spread, scale)
    return spread


def count_pool(
    words: Tensor, steps: int, dtype: torch.dtype, size: tuple[int, int], scale: float, channels_last: bool = False
) -> Tensor | None:
    """Pooled spikes ``(T, B, C, H', W')`` from packed ``words (1.., B, C, H, W)``; None without a compiled function.

    They have the memory format of the words, or channels last if ``channels_last``.
    """
    function = _function("count", words, dtype, size)
    if function is None:
        return None
    images = words.flatten(0, 1)
    reordered = channels_last and images.is_contiguous()
    order = torch.channels_last if reordered else _memory_format(images)
    sums = _empty_pooled(images, words.shape[1] * steps, dtype, size, order)
    _call(function, images, sums, words[0], scale, steps, images.shape[1] if reordered else 1)
    return sums.unflatten(0, (steps, -1))


def _empty_pooled(
    x: Tensor, batch: int, dtype: torch.dtype, size: tuple[int, int], order: torch.memory_format
) -> Tensor:
    shape = batch, x.shape[1], x.shape[2] // size[0], x.shape[3] // size[1]
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=order)


def _memory_format(x: Tensor) -> torch.memory_format:
    """Of ``x (B, C, H, W)``, which is dense in one or the other."""
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


# --- compiled ---------------------------------------------------------------------------------------------------


def _function(function: Function, x: Tensor, dtype: torch.dtype, size: tuple[int, int]) -> Any:
    """A compiled function from x to a tensor of ``dtype``; None without a compiler, or for an x that is traced, empty
    or neither contiguous nor channels last."""
    if torch.compiler.is_compiling() or type(x) is not Tensor or dtype not in REALS or not x.numel():
        return None
    images = x.flatten(0, -4)
    if not (images.is_contiguous() or images.is_contiguous(memory_format=torch.channels_last)):
        return None
    return compiled(_compiled, function, size, x.dtype, dtype)


@functools.cache
def _compiled(function: Function, size: tuple[int, int], source: torch.dtype, target: torch.dtype) -> Any:
    window = f"-DWINDOW_HEIGHT={size[0]}", f"-DWINDOW_WIDTH={size[1]}"
    types = f"-DSOURCE={conversions(source)}", f"-DTARGET={conversions(target)}"
    call = library(read_source("halves.hpp", "sum_pooling.hpp"), f"-DFUNCTION={function}", *window, *types).pool
    call.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 6, ctypes.c_double, ctypes.c_int32]
    call.restype = None
    return call


def _call(
    function: Any, source: Tensor, target: Tensor, images: Tensor, scale: float, steps: int = 1, channels: int = 1
) -> None:
    """Run a compiled function on images that are not pooled and lie in memory like ``images``."""
    batch, depth, height, width = images.shape
    sizes = (batch * depth, height, width, 1) if images.is_contiguous() else (batch, height, width, depth)
    function(source.data_ptr(), target.data_ptr(), *sizes, steps, channels, scale, torch.get_num_threads())


# --- without a compiler -----------------------------------------------------------------------------------------


def _strips(x: Tensor, dim: int, size: int) -> tuple[Tensor, ...]:
    """The first, second, ... element of each window of ``size`` along ``dim``, as views."""
    windows = x.shape[dim] // size
    return x.narrow(dim, 0, windows * size).unflatten(dim, (windows, size)).unbind(dim + 1)


def _strip_sums(x: Tensor, size: tuple[int, int]) -> Tensor:
    for dim, length in zip((2, 3), size, strict=True):
        x = functools.reduce(torch.add, _strips(x, dim, length))
    return x


def _spread_strips(grad: Tensor, shape: Sequence[int], size: tuple[int, int]) -> Tensor:
    for dim in (3, 2):
        length = size[dim - 2]
        wider = (*grad.shape[:dim], shape[dim], *grad.shape[dim + 1 :])
        filled = shape[dim] % length == 0
        spread = grad.new_empty(wider) if filled else grad.new_zeros(wider)
        for strip in _strips(spread, dim, length):
            strip.copy_(grad)
        grad = spread
    return grad
