"""Spike trains as bits, with a way back for gradients.

A weighted layer needs its input again for the gradient of its weights. Packed spikes are 1/32 of a float32 spike
train, and a pooled or dropped-out spike train can be computed from the packed spikes before it. A layer that receives
`PackedSpikes` therefore keeps their bits and not the dense tensor. They are handed on explicitly, from layer to layer:
nothing is recorded on a tensor, so spikes that a program changes are never mistaken for the old ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tssl_triton._checks import check_sequence
from tssl_triton.kernels.layout import word_dtype

from .spike_trains import pack, unpack
from .sum_pool import SumPool

Function = Callable[..., Tensor]


class Recipe(NamedTuple):
    """How to compute a dense tensor from packed spikes.

    Args:
        steps: number of time steps T.
        functions: applied to the unpacked spikes in order, each with a number of further tensors.
    """

    steps: int
    functions: tuple[tuple[Function, int], ...] = ()

    def dense(self, tensors: Sequence[Tensor], dtype: torch.dtype, channels_last: bool = False) -> Tensor:
        """The dense tensor from packed words and further tensors, as `PackedSpikes.tensors` returns them.

        With ``channels_last`` images may come in that memory format, where this takes no longer.
        """
        words, *others = tensors
        functions, found = list(self.functions), None
        if functions and isinstance(functions[0][0], SumPool):
            found = functions[0][0].of_bits(words, self.steps, dtype, channels_last)
        if found is None:
            found = unpack(words, self.steps, dtype)
        else:
            del functions[0]
        for function, count in functions:
            found = function(found, *others[:count])
            del others[:count]
        return found


@dataclass(frozen=True, eq=False)
class PackedSpikes:
    """A spike train as bits, on autograd's graph. Made by `pack` and by this package's layers.

    Args:
        words: packed spikes ``(ceil(T / 32), B, *)``, as `tssl_triton.pack_spikes` makes them.
        steps: number of time steps T.
        link: internal; the tensor ``(T, B, *)`` that autograd sees: the dense spikes, or a tensor of their shape and
            dtype that occupies the memory of one number (all its strides are 0). Its gradient is that of the spikes.
        applied: internal; functions applied to the spikes since, each with further tensors. The dense tensor is theirs.
    """

    words: Tensor
    steps: int
    link: Tensor
    applied: tuple[tuple[Function, tuple[Tensor, ...]], ...] = ()

    @classmethod
    def pack(cls, spikes: Tensor) -> PackedSpikes:
        """The bits of ``spikes (T, B, *)``; anything but 0 counts as a spike. Gradients go to ``spikes``.

        Raises:
            TypeError, ValueError: for a wrong rank, dtype or device, or T = 0.
        """
        check_sequence("spikes", spikes)
        return cls(pack(spikes.detach(), word_dtype(len(spikes))), len(spikes), _Link.apply(spikes))

    @property
    def shape(self) -> torch.Size:
        """Shape of the dense spike train, ``(T, B, *)``."""
        return self.link.shape

    @property
    def dtype(self) -> torch.dtype:
        """Type of the dense spike train."""
        return self.link.dtype

    @property
    def device(self) -> torch.device:
        return self.words.device

    def dense(self) -> Tensor:
        """The dense tensor ``(T, B, *)`` on autograd's graph: spikes of 0 and 1."""
        if not self.link.numel() or any(self.link.stride()):
            return self.link
        return _Unpacked.apply(self.link, self.words, self.steps)

    def apply(self, function: Function, *tensors: Tensor) -> PackedSpikes:
        """``function`` of the dense tensor and further tensors, computed now and, for backward, from the bits."""
        return self.with_dense(function(self.dense(), *tensors), function, *tensors)

    def with_dense(self, dense: Tensor, function: Function, *tensors: Tensor) -> PackedSpikes:
        """As `apply`, for a ``dense`` result that has been computed."""
        return PackedSpikes(self.words, self.steps, dense, (*self.applied, (function, tensors)))

    @property
    def recipe(self) -> Recipe:
        """How to compute the dense tensor from `tensors`."""
        return Recipe(self.steps, tuple((function, len(tensors)) for function, tensors in self.applied))

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors to keep for `recipe`."""
        found = [self.words]
        for _, tensors in self.applied:
            found += tensors
        return tuple(found)


class _Link(torch.autograd.Function):
    """A link to spikes of a user. Only their bits count from here on."""

    @staticmethod
    def forward(ctx: Any, spikes: Tensor) -> Tensor:
        return ghost(tuple(spikes.shape), spikes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class _Unpacked(torch.autograd.Function):
    """The dense spikes of a link; their gradient is the link's."""

    @staticmethod
    def forward(ctx: Any, link: Tensor, words: Tensor, steps: int) -> Tensor:
        return unpack(words, steps, link.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, None, None


def ghost(shape: Sequence[int], like: Tensor) -> Tensor:
    """A tensor of this shape that occupies the memory of one number."""
    return like.new_empty(()).expand(shape)
