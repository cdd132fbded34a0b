"""Gradients without a gradient of their own: a second derivative raises instead of being silently wrong.

PyTorch's ``once_differentiable`` raises only where the incoming gradient is on a graph itself. Elsewhere it returns
constants, and what is added to a loss because of them has no effect.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, ...]


def first_order(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """Decorator of a ``backward``, which runs without a graph.

    With ``create_graph=True`` its results are passed through `no_second_derivative`.
    """

    @functools.wraps(backward)
    def wrapped(ctx: Any, *grads: Tensor | None) -> Gradients:
        if not torch.is_grad_enabled():
            return backward(ctx, *grads)
        with torch.no_grad():
            found = backward(ctx, *grads)
        return tuple(None if x is None else no_second_derivative(x, *ctx.saved_tensors, *grads) for x in found)

    return wrapped


def no_second_derivative(x: Tensor, *of: Tensor | None) -> Tensor:
    """``x``, a function ``of`` other tensors, as a tensor that raises RuntimeError when it is differentiated."""
    return _NoSecondDerivative.apply(x.detach().requires_grad_(), *of)


class _NoSecondDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *of: Tensor | None) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        raise RuntimeError(
            "spiking layers have a first derivative only: a learning rule defines no second one. Take gradients "
            "without create_graph=True, or detach them before they enter a loss"
        )
