"""Products of a layer's input with its weights, and their gradients. Time is part of the batch.

A product keeps its input for the gradient of the weights: as packed spikes where it has them (`PackedSpikes`), else as
the tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tssl_triton._checks import check_features
from tssl_triton.kernels.geometry import Geometry
from tssl_triton.operators import (
    ActiveInputs,
    PackedSpikes,
    Recipe,
    first_order,
    is_traced,
    set_autocast,
    spike_product,
    spike_weight_gradient,
)

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


class KeptInput:
    """The input ``(T, B, *)`` of a product, as it is kept for backward.

    Args:
        shape, dtype: of the dense input.
        tensors: the dense input alone; or with a ``recipe`` the tensors that this computes it from.
        recipe: how to compute the dense input, as of `PackedSpikes`.
        twice: whether the dense input, once computed, is held for a second use.

    Attributes:
        active: the active inputs that the product found, if it did.
    """

    def __init__(
        self,
        shape: torch.Size,
        dtype: torch.dtype,
        tensors: Sequence[Tensor],
        recipe: Recipe | None = None,
        twice: bool = False,
    ) -> None:
        self.shape, self.dtype, self.tensors, self.recipe = shape, dtype, tuple(tensors), recipe
        self.active: ActiveInputs | None = None
        self._twice = twice
        self._dense = tensors[0] if recipe is None else None

    def dense(self, channels_last: bool = False) -> Tensor:
        """The dense input; with ``channels_last`` images may come in that memory format."""
        if self._dense is not None:
            return self._dense
        assert self.recipe is not None
        dense = self.recipe.dense(self.tensors, self.dtype, channels_last and not self._twice)
        if self._twice:
            self._dense = dense
        return dense


Input = Tensor | PackedSpikes | KeptInput
"""Of a product."""


class Linear(NamedTuple):
    """``x (T, B, *)``, features flattened, times ``weight (out, in)``: ``(T, B, out)``."""

    def check(self, x: Sequence[int], weight: Sequence[int]) -> None:
        """Raise ValueError for an input of a shape that the weights do not fit."""
        check_features("x", x, weight[1])

    def shape(self, x: Sequence[int], weight: Sequence[int]) -> tuple[int, ...]:
        """Shape of the output for an input of shape ``x``."""
        return (x[0], x[1], weight[0])

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x if x.dim() == 3 else x.flatten(2), weight, bias)

    def of(self, x: Input, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ActiveInputs | None]:
        """The product of an input, and the active inputs where it is taken from packed spikes, which may be faster."""
        if isinstance(x, Tensor):
            return self(x, weight, bias), None
        spikes = _spikes_of(x)
        found = None if spikes is None else spike_product(*spikes, weight, bias)
        return (self(_dense(x), weight, bias), None) if found is None else found

    def gradients(self, grad: Tensor, x: KeptInput, weight: Tensor, needed: Sequence[bool]) -> Gradients:
        """Gradients of input, weight and bias, as far as they are ``needed``."""
        grad_x = grad_weight = grad_bias = None
        # The weights first: their scratch memory is free again when the gradient of the input takes its own.
        if needed[1]:
            spikes = _spikes_of(x)
            if spikes is not None:
                grad_weight = spike_weight_gradient(grad, *spikes, weight, x.active)
                x.active = None  # read, and so free
            if grad_weight is None:
                dense = _in(grad.dtype, x.dense())
                grad_weight = _in(weight.dtype, grad.flatten(0, 1).t() @ dense.reshape(-1, weight.shape[1]))
                del dense
        if needed[0]:
            grad_x = (grad.flatten(0, 1) @ _in(grad.dtype, weight)).view(x.shape)
        if needed[2]:
            grad_bias = grad.flatten(0, 1).sum(0).to(weight.dtype)
        return grad_x, grad_weight, grad_bias


class Conv2d(NamedTuple):
    """``x (T, B, C, H, W)`` convolved with ``weight (K, C, h, w)``: ``(T, B, K, H', W')``."""

    stride: tuple[int, int]
    padding: tuple[int, int]

    def check(self, x: Sequence[int], weight: Sequence[int]) -> None:
        """Raise ValueError for an input of a shape that the weights do not fit."""
        if len(x) != 5 or x[2] != weight[1]:
            raise ValueError(f"x must be (T, B, {weight[1]}, H, W), got shape {tuple(x)}")
        if min(self.shape(x, weight)[3:]) < 1:
            raise ValueError(
                f"x must hold images that a kernel of {tuple(weight[2:])} fits into with padding {self.padding}, "
                f"got shape {tuple(x)}"
            )

    def shape(self, x: Sequence[int], weight: Sequence[int]) -> tuple[int, ...]:
        """Shape of the output for an input of shape ``x``."""
        geometry = Geometry.of(x[3], x[4], (weight[2], weight[3]), self.stride, self.padding)
        return (x[0], x[1], weight[0], geometry.out_h, geometry.out_w)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x.flatten(0, 1), weight, bias, self.stride, self.padding).unflatten(0, x.shape[:2])

    def of(self, x: Input, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, None]:
        """The product of an input; there are no active inputs to it."""
        return self(x if isinstance(x, Tensor) else _dense(x), weight, bias), None

    def gradients(self, grad: Tensor, x: KeptInput, weight: Tensor, needed: Sequence[bool]) -> Gradients:
        """Gradients of input, weight and bias, as far as they are ``needed``."""
        # A GPU accumulates in float32. A CPU would add up the 16-bit gradients of samples in 16 bits, with ten times
        # the error of one rounding.
        narrow = grad.device.type == "cpu" and grad.dtype in (torch.float16, torch.bfloat16)
        accumulated = torch.float32 if narrow else grad.dtype
        rows, filters = grad.flatten(0, 1).to(accumulated), weight.to(grad.dtype).to(accumulated)
        sizes = [weight.shape[0]], self.stride, self.padding, (1, 1), False, (0, 0), 1

        def backward(rows: Tensor, images: Tensor, needed: Sequence[bool]) -> Any:
            return torch.ops.aten.convolution_backward(rows, images, filters, *sizes, needed)

        def images(dense: Tensor) -> Tensor:
            return dense.flatten(0, 1).to(grad.dtype).to(accumulated)

        of_x, of_weight, of_bias = needed
        grad_x = None
        if of_weight and _prefers_channels_last(rows, x.shape[2]):
            channels_last = images(x.dense(channels_last=True)).contiguous(memory_format=torch.channels_last)
            beside = rows.contiguous(memory_format=torch.channels_last)
            _, grad_weight, grad_bias = backward(beside, channels_last, (False, True, of_bias))
            grad_weight = grad_weight.contiguous()
            del channels_last, beside
            if of_x:
                like = rows.new_empty(x.shape).flatten(0, 1)  # the operator reads its shape alone
                grad_x, _, _ = backward(rows, like, (True, False, False))
        else:
            grad_x, grad_weight, grad_bias = backward(rows, images(x.dense()), (of_x, of_weight, of_bias))
        return (
            None if grad_x is None else grad_x.to(grad.dtype).view(x.shape),
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(weight.dtype),
        )


Product = Linear | Conv2d

LINEAR = Linear()


def _dense(x: PackedSpikes | KeptInput) -> Tensor:
    """The dense input: the link of packed spikes, where that has contents."""
    return x.link if isinstance(x, PackedSpikes) and any(x.link.stride()) else x.dense()


def _spikes_of(x: PackedSpikes | KeptInput) -> tuple[Tensor, int, Tensor | None] | None:
    """Packed spikes, T, and the factors of dropout, as the products from bits take them; None for other inputs."""
    if x.recipe is None:
        return None
    steps, functions = x.recipe
    if not functions:
        return x.tensors[0], steps, None
    return (x.tensors[0], steps, x.tensors[1]) if functions == _DROPPED_OUT else None


_DROPPED_OUT = ((torch.mul, 1),)


def _in(dtype: torch.dtype, x: Tensor) -> Tensor:
    """x in a type; x itself, without a call of PyTorch, where it has the type."""
    return x if x.dtype == dtype else x.to(dtype)


def _prefers_channels_last(rows: Tensor, channels: int) -> bool:
    """Whether the gradient of a convolution's weights is faster with channels last, copies included.

    oneDNN has fast kernels for multiples of 16 channels and for the one to three of a picture; in between it is as fast
    with channels last only.
    """
    return rows.device.type == "cpu" and channels > 3 and channels % 16 > 0 and rows.is_contiguous()


def weighted(product: Product, x: Tensor | PackedSpikes, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``product(x, weight, bias)``, which keeps packed spikes for backward where x has them."""
    if isinstance(x, Tensor):
        return product(x, weight, bias)
    if is_traced([x.link, weight, bias]):
        return product(x.dense(), weight, bias)
    return _Weighted.apply(x.link, weight, bias, product, x)


class _Weighted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, link: Tensor, weight: Tensor, bias: Tensor | None, product: Product, x: PackedSpikes
    ) -> Tensor:
        ctx.save_for_backward(weight, *x.tensors)
        ctx.product, ctx.kept = product, (x.shape, x.dtype, x.recipe)
        return product(x.dense(), weight, bias)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *tensors = ctx.saved_tensors
        shape, dtype, recipe = ctx.kept
        with set_autocast(grad.device.type, None):
            x = KeptInput(shape, dtype, tensors, recipe)
            return *ctx.product.gradients(grad, x, weight, ctx.needs_input_grad[:3]), None, None
