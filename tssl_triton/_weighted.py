"""Linear maps and pooling on spike trains that keep packed bits for backward, never float spike tensors.

Each takes ``(T, B, *)`` and treats time as more of the batch. Without a packed form of its input at hand (see
`tssl_triton._packed`) a map is plain PyTorch, which keeps the dense input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._packed import Packed, recall, remember


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x (T, B, *)``, features flattened, times ``weight (out, in)``: ``(T, B, out)``."""
    packed = recall(x)
    if packed is None:
        return F.linear(x.flatten(2), weight, bias)
    return _Linear.apply(x, weight, bias, packed, *packed.tensors())


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """``x (T, B, C, H, W)`` convolved with ``weight (K, C, h, w)``: ``(T, B, K, H', W')``."""
    packed = recall(x)
    if packed is None:
        return F.conv2d(x.flatten(0, 1), weight, bias, stride, padding).unflatten(0, x.shape[:2])
    return _Conv2d.apply(x, weight, bias, stride, padding, packed, *packed.tensors())


def sum_pool2d(x: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    """``scale`` times the sum over each window of ``size``, for ``x (T, B, C, H, W)``."""
    return _followed(x, _SumPool2d.apply(x, size, scale), lambda dense: _SumPool2d.apply(dense, size, scale))


def max_pool2d(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The maximum over each window of ``size``, for ``x (T, B, C, H, W)``."""

    def pool(dense: Tensor) -> Tensor:
        return F.max_pool2d(dense.flatten(0, 1), size).unflatten(0, dense.shape[:2])

    packed = recall(x)
    if packed is None:
        return pool(x)
    return _followed(x, _Recomputed.apply(x, pool, packed, *packed.tensors()), pool)


def scaled_by(x: Tensor, mask: Tensor) -> Tensor:
    """``x (T, B, *)`` times ``mask (B, *)`` at every step."""
    return _followed(x, x * mask, torch.mul, mask)


def _followed(x: Tensor, result: Tensor, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``result``, remembered as ``function`` of the packed form of ``x`` if ``x`` has one."""
    packed = recall(x)
    if packed is not None:
        remember(result, packed.followed_by(function, *tensors))
    return result


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, packed: Packed, *kept: Tensor) -> Tensor:
        ctx.save_for_backward(weight, *kept)
        ctx.packed, ctx.shape = packed, x.shape
        return F.linear(x.flatten(2), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *kept = ctx.saved_tensors
        rows = grad.flatten(0, 1)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = (rows @ weight.to(grad.dtype)).view(ctx.shape)
        if ctx.needs_input_grad[1]:
            x = ctx.packed.rebuild(tuple(kept), grad.dtype)
            grad_weight = (rows.t() @ x.flatten(2).flatten(0, 1)).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = rows.sum(0).to(weight.dtype)
        return (grad_x, grad_weight, grad_bias, None, *[None] * len(kept))


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        packed: Packed,
        *kept: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(weight, *kept)
        ctx.packed, ctx.shape, ctx.stride, ctx.padding = packed, x.shape, stride, padding
        return F.conv2d(x.flatten(0, 1), weight, bias, stride, padding).unflatten(0, x.shape[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *kept = ctx.saved_tensors
        x = ctx.packed.rebuild(tuple(kept), grad.dtype).flatten(0, 1)
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad.flatten(0, 1),
            x,
            weight.to(grad.dtype),
            [weight.shape[0]],
            ctx.stride,
            ctx.padding,
            (1, 1),
            False,
            (0, 0),
            1,
            ctx.needs_input_grad[:3],
        )
        if grad_x is not None:
            grad_x = grad_x.view(ctx.shape)
        grads = (g if g is None else g.to(weight.dtype) for g in (grad_weight, grad_bias))
        return (grad_x, *grads, None, None, None, *[None] * len(kept))


class _SumPool2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: tuple[int, int], scale: float) -> Tensor:
        ctx.shape, ctx.size, ctx.scale = x.shape, size, scale
        return F.avg_pool2d(x.flatten(0, 1), size, divisor_override=1).mul_(scale).unflatten(0, x.shape[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad.flatten(0, 1) * ctx.scale
        # Only its shape matters: no memory is touched.
        like = grad.new_empty((len(grad), *ctx.shape[2:]))
        size = list(ctx.size)
        spread = torch.ops.aten.avg_pool2d_backward(grad, like, size, size, [0, 0], False, True, 1)
        return spread.view(ctx.shape), None, None


class _Recomputed(torch.autograd.Function):
    """``function(x)``; backward rebuilds x from its packed form and differentiates the function again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor], packed: Packed, *kept: Tensor) -> Tensor:
        ctx.save_for_backward(*kept)
        ctx.packed, ctx.function = packed, function
        return function(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x = ctx.packed.rebuild(ctx.saved_tensors, grad.dtype)
        with torch.enable_grad():
            x.requires_grad_()
            (grad_x,) = torch.autograd.grad(ctx.function(x), x, grad)
        return (grad_x, None, None, *[None] * len(ctx.saved_tensors))
