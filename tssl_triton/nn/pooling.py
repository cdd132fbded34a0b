"""Pooling and dropout of spike trains."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tssl_triton._checks import check_choice, check_finite, check_images, check_pair
from tssl_triton.operators import PackedSpikes, Recipe, SumPool

from .neurons import Input, each_step


class SpikePool2d(nn.Module):
    """Pooling of spike trains ``(T, B, C, H, W)`` over non-overlapping windows.

    Args:
        kernel_size: height and width of a window, one integer for both.
        kind: ``"sum"`` over the window times ``scale`` (the released program's choice), ``"average"`` or ``"max"``.
        scale: factor of ``kind="sum"``; 1.1 in the released program.
    """

    def __init__(self, kernel_size: int | tuple[int, int], kind: str = "sum", scale: float = 1.1) -> None:
        super().__init__()
        self.kernel_size = check_pair("kernel_size", kernel_size, 1)
        self.kind = check_choice("kind", kind, ("sum", "average", "max"))
        self.scale = check_finite("scale", scale)

    def forward(self, x: Input) -> Input:
        return each_step(x, self._pool)

    def _run(self, x: Input, state: None, carry: bool, following: nn.Module | None) -> tuple[Input, None]:
        """The pooled input, for a ``following`` layer with the bits that it is computed from."""
        if not isinstance(x, PackedSpikes):
            return self(x), None
        check_images("x", x.shape, self.kernel_size)
        sums = self._settings()
        if sums is None:
            function = partial(_max_pool2d, size=self.kernel_size)
            pooled = x.with_dense(_Recomputed.apply(x.dense(), function, x.recipe, *x.tensors), function)
        elif any(x.link.stride()):
            pooled = x.apply(sums)
        else:
            pooled = x.with_dense(sums.of_packed(x.link, x.words, x.steps), sums)
        return (pooled.link if following is None else pooled), None

    def _settings(self) -> SumPool | None:
        """The sums of ``kind="sum"`` and ``"average"``."""
        if self.kind == "max":
            return None
        return SumPool(self.kernel_size, self.scale if self.kind == "sum" else 1.0 / math.prod(self.kernel_size))

    def _pool(self, x: Tensor) -> Tensor:
        check_images("x", x.shape, self.kernel_size)
        sums = self._settings()
        return _max_pool2d(x, self.kernel_size) if sums is None else sums(x)

    def extra_repr(self) -> str:
        return f"{self.kernel_size}, kind={self.kind!r}" + (f", scale={self.scale}" if self.kind == "sum" else "")


class TimeSharedDropout(nn.Module):
    """Dropout with one mask per sample, shared by all time steps: a dropped neuron is silent for the whole run.

    Args:
        p: probability of dropping a neuron, 0 <= p < 1; the others are scaled by 1/(1 - p) in training.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if isinstance(p, bool) or not isinstance(p, (int, float)):
            raise TypeError(f"p must be a number with 0 <= p < 1, got {p!r}")
        if not 0 <= p < 1:
            raise ValueError(f"p must be a number with 0 <= p < 1, got {p!r}")
        self.p = float(p)

    def forward(self, x: Input) -> Input:
        return each_step(x, self._drop)

    def _run(self, x: Input, state: None, carry: bool, following: nn.Module | None) -> tuple[Input, None]:
        """The input without the dropped neurons, for a ``following`` layer with the bits that it is computed from."""
        if following is None or not isinstance(x, PackedSpikes):
            return self(x), None
        if not self.training or self.p == 0:
            return x, None
        return x.apply(torch.mul, self._mask(x.dense())), None

    def _drop(self, x: Tensor) -> Tensor:
        return x * self._mask(x) if self.training and self.p > 0 else x

    def _mask(self, x: Tensor) -> Tensor:
        return F.dropout(torch.ones_like(x[0]), self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def _max_pool2d(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The maximum over each window of ``size``, for ``x (T, B, C, H, W)``."""
    return F.max_pool2d(x.flatten(0, 1), size).unflatten(0, x.shape[:2])


class _Recomputed(torch.autograd.Function):
    """``function(x)``; backward computes x again from packed spikes and differentiates the function there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Any, recipe: Recipe, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.recipe, ctx.function, ctx.dtype = recipe, function, x.dtype
        return function(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x = ctx.recipe.dense(ctx.saved_tensors, ctx.dtype)
        twice = torch.is_grad_enabled()
        with torch.enable_grad():
            x.requires_grad_()
            (grad_x,) = torch.autograd.grad(ctx.function(x), x, grad, create_graph=twice)
        return (grad_x, None, None, *[None] * len(ctx.saved_tensors))
