"""Sums over windows of spike trains, and their transpose, as nodes on autograd's graph.

On a CPU the functions of `tssl_triton.cpu` compute them; on other devices PyTorch's average pooling does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tssl_triton import cpu
from tssl_triton._checks import FLOATING

from . import devices
from .registration import is_traced
from .spike_trains import unpack


@dataclass(frozen=True)
class SumPool:
    """``scale`` times the sum over each window of ``size``, for ``x (T, B, C, H, W)``.

    Windows do not overlap; rows and columns that do not fill one are left out.
    """

    size: tuple[int, int]
    scale: float

    def __call__(self, x: Tensor) -> Tensor:
        return _Sum.apply(x, self)

    def takes_bits(self, shape: Sequence[int], device: torch.device) -> bool:
        """Whether packed spikes are all that the sums need."""
        return devices.uses_loops(device) and not torch.compiler.is_compiling()

    def of_packed(self, link: Tensor, words: Tensor, steps: int) -> Tensor:
        """The pooled spikes of packed ones, whose gradient goes to their ``link`` on autograd's graph."""
        return _SumOfPacked.apply(link, words, steps, self)

    def of_bits(self, words: Tensor, steps: int, dtype: torch.dtype, channels_last: bool = False) -> Tensor | None:
        """The pooled spikes from their packed form ``(words, B, C, H, W)``; None where it takes the dense spikes.

        They have the memory format of the words, or channels last.
        """
        if words.device.type != "cpu" or is_traced([words]):
            return None
        return cpu.count_pool(words, steps, dtype, self.size, self.scale, channels_last)

    def sums(self, x: Tensor) -> Tensor:
        """The pooled ``x (B, C, H, W)``."""
        if _on_cpu(x):
            return cpu.sum_pool(x, self.size, self.scale)
        return F.avg_pool2d(x, self.size, divisor_override=1).mul_(self.scale)

    def spread(self, grad: Tensor, shape: Sequence[int]) -> Tensor:
        """The transpose of `sums`: each window's ``grad``, scaled, at each of its elements, of ``shape`` in all."""
        if _on_cpu(grad):
            return cpu.spread_pool(grad, shape, self.size, self.scale)
        like = grad.new_empty(shape)  # the operator reads its shape alone
        size = list(self.size)
        return torch.ops.aten.avg_pool2d_backward(grad * self.scale, like, size, size, [0, 0], False, True, 1)


def _on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in FLOATING


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: SumPool) -> Tensor:
        ctx.shape, ctx.pool = x.shape, pool
        return pool.sums(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Spread.apply(grad, ctx.pool, ctx.shape), None


class _SumOfPacked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, link: Tensor, words: Tensor, steps: int, pool: SumPool) -> Tensor:
        ctx.shape, ctx.pool = link.shape, pool
        pooled = pool.of_bits(words, steps, link.dtype)
        if pooled is None:
            pooled = pool.sums(unpack(words, steps, link.dtype).flatten(0, 1)).unflatten(0, link.shape[:2])
        return pooled

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _Spread.apply(grad, ctx.pool, ctx.shape), None, None, None


class _Spread(torch.autograd.Function):
    """The transpose of `_Sum`, whose transpose is `_Sum` again."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, pool: SumPool, shape: torch.Size) -> Tensor:
        ctx.pool = pool
        steps, batch, *image = shape
        return pool.spread(grad.flatten(0, 1), (steps * batch, *image)).view(shape)

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> tuple[Tensor, None, None]:
        return _Sum.apply(x, ctx.pool), None, None
