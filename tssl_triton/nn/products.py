"""Linear maps and pooling on spike trains that keep packed bits for backward, never float spike tensors.

Each takes ``(T, B, *)`` and treats time as more of the batch. Without a packed form of its input at hand (see
`tssl_triton.operators.records`) a map with weights keeps the dense input. Under torch.compile it is plain PyTorch,
and what is
kept the compiler's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tssl_triton._checks import check_images
from tssl_triton.cpu import spike_products as _spike_products
from tssl_triton.cpu.spike_products import Listed
from tssl_triton.cpu.sum_pooling import SumPool
from tssl_triton.kernels.geometry import Geometry
from tssl_triton.operators.autocast import Autocast
from tssl_triton.operators.first_order import final
from tssl_triton.operators.records import Packed, recall, remember

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


class Input(NamedTuple):
    """The input ``(T, B, *)`` of a map.

    Args:
        shape, dtype: of the dense input.
        packed: its packed form, where it has one.
        dense: the dense input, made when it is asked for.
        turned: the same, with channels last in memory where it can be made so as soon; None if it is at hand already.
        listed: who fires, where a product has found out.
        directly: whether nobody follows what becomes of it, as far as `tssl_triton.nn.prepared.direct` has been asked.
    """

    shape: Sequence[int]
    dtype: torch.dtype
    packed: Packed | None
    dense: Callable[[], Tensor]
    turned: Callable[[], Tensor] | None = None
    listed: Listed | None = None
    directly: bool = False


def _as(dtype: torch.dtype, x: Tensor) -> Tensor:
    """x in a type: itself where it has it, without a call of PyTorch's."""
    return x if x.dtype == dtype else x.to(dtype)


class Linear:
    """``x (T, B, *)``, features flattened, times ``weight (out, in)``: ``(T, B, out)``."""

    def shape(self, x: Sequence[int], weight: Sequence[int]) -> tuple[int, ...]:
        """Shape of the output for an input of shape ``x``."""
        return (x[0], x[1], weight[0])

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x if x.dim() == 3 else x.flatten(2), weight, bias)

    def gradients(self, grad: Tensor, x: Input, weight: Tensor, needed: Sequence[bool]) -> Gradients:
        """Gradients of input, weight and bias, those ``needed``."""
        grad_x = grad_weight = grad_bias = None
        if needed[0]:
            grad_x = (grad.flatten(0, 1) @ _as(grad.dtype, weight)).view(x.shape)
        if needed[1]:
            if x.packed is not None:
                grad_weight = _spike_products.weight_gradient(
                    grad, x.packed, weight, known=x.listed, directly=x.directly
                )
            if grad_weight is None:
                dense = _as(grad.dtype, x.dense())
                grad_weight = _as(weight.dtype, grad.flatten(0, 1).t() @ dense.reshape(-1, weight.shape[1]))
        if needed[2]:
            grad_bias = grad.flatten(0, 1).sum(0).to(weight.dtype)
        return grad_x, grad_weight, grad_bias


LINEAR = Linear()
"""It is the same for all layers."""


class Conv2d(NamedTuple):
    """``x (T, B, C, H, W)`` convolved with ``weight (K, C, h, w)``: ``(T, B, K, H', W')``."""

    stride: tuple[int, int]
    padding: tuple[int, int]

    def shape(self, x: Sequence[int], weight: Sequence[int]) -> tuple[int, ...]:
        """Shape of the output for an input of shape ``x``."""
        geometry = Geometry.of(x[3], x[4], (weight[2], weight[3]), self.stride, self.padding)
        return (x[0], x[1], weight[0], geometry.out_h, geometry.out_w)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x.flatten(0, 1), weight, bias, self.stride, self.padding).unflatten(0, x.shape[:2])

    def gradients(self, grad: Tensor, x: Input, weight: Tensor, needed: Sequence[bool]) -> Gradients:
        """Gradients of input, weight and bias, those ``needed``."""
        # A GPU accumulates in float32. A CPU would add one sample's 16-bit gradient to the next one's in 16 bits, ten
        # times as far from the truth as one rounding is.
        narrow = grad.device.type == "cpu" and grad.dtype in (torch.float16, torch.bfloat16)
        accumulated = torch.float32 if narrow else grad.dtype
        rows, filters = grad.flatten(0, 1).to(accumulated), weight.to(grad.dtype).to(accumulated)
        sizes = [weight.shape[0]], self.stride, self.padding, (1, 1), False, (0, 0), 1

        def backward(rows: Tensor, images: Tensor, needed: Sequence[bool]) -> Any:
            return torch.ops.aten.convolution_backward(rows, images, filters, *sizes, needed)

        def images(x: Tensor) -> Tensor:
            return x.flatten(0, 1).to(grad.dtype).to(accumulated)

        of_x, of_weight, of_bias = needed
        grad_x = None
        if of_weight and _is_faster_turned(rows, x.shape[2]):
            turned = images((x.turned or x.dense)()).contiguous(memory_format=torch.channels_last)
            beside = rows.contiguous(memory_format=torch.channels_last)
            _, grad_weight, grad_bias = backward(beside, turned, (False, True, of_bias))
            grad_weight = grad_weight.contiguous()
            del turned, beside
            if of_x:
                like = rows.new_empty(x.shape).flatten(0, 1)  # only its shape matters: no memory is touched
                grad_x, _, _ = backward(rows, like, (True, False, False))
        else:
            grad_x, grad_weight, grad_bias = backward(rows, images(x.dense()), (of_x, of_weight, of_bias))
        return (
            None if grad_x is None else grad_x.to(grad.dtype).view(x.shape),
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(weight.dtype),
        )


def _is_faster_turned(rows: Tensor, channels: int) -> bool:
    """Whether the gradient of a convolution's weights is sooner had with channels last in memory, copies included.

    oneDNN takes 16 channels at a time, or the one to three of a picture; numbers between it takes as fast only there.
    """
    return rows.device.type == "cpu" and channels > 3 and channels % 16 > 0 and rows.is_contiguous()


Map = Linear | Conv2d


def gradients(function: Map, grad: Tensor, x: Input, weight: Tensor, needed: Sequence[bool]) -> Gradients:
    """The gradients of ``function`` in the dtype of ``grad``, which is forward's: an autocast of now is not."""
    with Autocast(grad.device.type).again():
        return function.gradients(grad, x, weight, needed)


def product(
    function: Map,
    packed: Packed | None,
    dense: Callable[[], Tensor],
    weight: Tensor,
    bias: Tensor | None,
    kept: list[Listed] | None = None,
    directly: bool = False,
) -> Tensor:
    """``function`` of an input: from packed spikes where there are some and that is faster, or else from dense ones.

    Who fires is added to ``kept``, where the product found out. That nobody follows may be known: ``directly``.
    """
    y = None
    if packed is not None and isinstance(function, Linear):
        y = _spike_products.product(packed, weight, bias, kept=kept, directly=directly)
    return function(dense(), weight, bias) if y is None else y


def weighted(function: Map, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``function(x, weight, bias)``, which keeps the packed form of x for backward where there is one."""
    if torch.compiler.is_compiling():
        return function(x, weight, bias)
    return _Weighted.apply(x, weight, bias, function, recall(x))


def kept(x: Tensor, packed: Packed | None) -> tuple[Tensor, ...]:
    """What a map saves of its input: the packed form's tensors, or else the input itself."""
    return (x,) if packed is None else packed.tensors()


def rebuilt(packed: Packed | None, saved: Sequence[Tensor], dtype: torch.dtype, last: bool = False) -> Tensor:
    """The input, of ``dtype``, from what `kept` returned; ``last`` as for `Packed.rebuild`."""
    return saved[0] if packed is None else packed.rebuild(tuple(saved), dtype, last)


def pooled(x: Tensor, pool: SumPool) -> Tensor:
    """``pool`` of ``x (T, B, C, H, W)``."""
    check_images("x", x.shape, pool.size)
    return _followed(x, pool(x), pool)


def max_pool2d(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The maximum over each window of ``size``, for ``x (T, B, C, H, W)``."""
    check_images("x", x.shape, size)

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


class _Weighted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, function: Map, packed: Packed | None
    ) -> Tensor:
        ctx.save_for_backward(weight, *kept(x, packed))
        ctx.function, ctx.packed, ctx.shape, ctx.dtype = function, packed, x.shape, x.dtype
        return product(function, packed, lambda: x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *saved = ctx.saved_tensors

        # On a graph of gradients it would be a constant, which the input that it is rebuilt for is not.
        constant = ctx.packed is not None and torch.is_grad_enabled() and ctx.needs_input_grad[0]

        def dense(last: bool = False) -> Tensor:
            x = rebuilt(ctx.packed, saved, ctx.dtype, last)
            return final(x, weight, grad) if constant else x

        x = Input(ctx.shape, ctx.dtype, None if constant else ctx.packed, dense, partial(dense, True))
        grads = gradients(ctx.function, grad, x, weight, ctx.needs_input_grad[:3])
        return (*grads, None, None)


class _Recomputed(torch.autograd.Function):
    """``function(x)``; backward rebuilds x from its packed form and differentiates the function again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor], packed: Packed, *kept: Tensor) -> Tensor:
        ctx.save_for_backward(*kept)
        ctx.packed, ctx.function, ctx.dtype = packed, function, x.dtype
        return function(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x = ctx.packed.rebuild(ctx.saved_tensors, ctx.dtype)
        twice = torch.is_grad_enabled()
        with torch.enable_grad():
            x.requires_grad_()
            (grad_x,) = torch.autograd.grad(ctx.function(x), x, grad, create_graph=twice)
        return (grad_x, None, None, *[None] * len(ctx.saved_tensors))
