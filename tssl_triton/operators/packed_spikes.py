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
        """The dense tensor from packed words and the further tensors of the functions.

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
        tensors: packed spikes ``(ceil(T / 32), B, *)``, as `tssl_triton.pack_spikes` makes them; inside a network that
            pools or drops them out, also the tensors that this takes.
        recipe: how to compute the dense tensor from these.
        link: internal; the tensor ``(T, B, *)`` that autograd sees: the dense one, or a tensor of its shape and dtype
            that occupies the memory of one number (all its strides are 0). Its gradient is that of the spikes.
    """

    tensors: tuple[Tensor, ...]
    recipe: Recipe
    link: Tensor

    @classmethod
    def pack(cls, spikes: Tensor) -> PackedSpikes:
        """The bits of ``spikes (T, B, *)``; anything but 0 counts as a spike. Gradients go to ``spikes``.

        Raises:
            TypeError, ValueError: for a wrong rank, dtype or device, or T = 0.
        """
        check_sequence("spikes", spikes)
        words = pack(spikes.detach(), word_dtype(len(spikes)))
        return cls((words,), Recipe(len(spikes)), _Link.apply(spikes))

    @property
    def words(self) -> Tensor:
        """The packed spikes."""
        return self.tensors[0]

    @property
    def steps(self) -> int:
        """Number of time steps T."""
        return self.recipe.steps

    @property
    def shape(self) -> torch.Size:
        """Shape of the dense tensor, ``(T, B, *)``."""
        return self.link.shape

    @property
    def dtype(self) -> torch.dtype:
        """Type of the dense tensor."""
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
        functions = (*self.recipe.functions, (function, len(tensors)))
        return PackedSpikes((*self.tensors, *tensors), Recipe(self.steps, functions), dense)


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
