"""A spike train as bits that can be handed from layer to layer, with a way back for its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tssl_triton._checks import check_sequence
from tssl_triton.kernels.layout import word_dtype

from . import neuron as _ops
from .records import Packed, recall, remember


@dataclass(frozen=True, eq=False)
class PackedSpikes:
    """A spike train as bits, with a way for gradients. Made by `pack` and by fused layers.

    Args:
        words: packed spikes ``(ceil(T / 32), B, *)``, as `tssl_triton.pack_spikes` makes them.
        steps: number of time steps T.
        link: what autograd sees, ``(T, B, *)``: the dense spikes themselves, where this package made them, or a tensor
            of their shape and dtype without contents of its own (all its strides are 0), whose gradient is theirs.
    """

    words: Tensor
    steps: int
    link: Tensor

    @classmethod
    def pack(cls, spikes: Tensor) -> PackedSpikes:
        """The bits of ``spikes (T, B, *)``; anything but 0 counts as a spike. Gradients go to ``spikes``.

        Raises:
            TypeError, ValueError: for a wrong rank, dtype or device, or T = 0.
        """
        check_sequence("spikes", spikes)
        known = known_bits(spikes)
        if known is not None:
            return known
        return cls(_ops.pack(spikes.detach(), word_dtype(len(spikes))), len(spikes), _Link.apply(spikes))

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
        """The spike train ``(T, B, *)``, 0 and 1, on autograd's graph; layers still keep its bits for backward."""
        if not self.link.numel() or any(self.link.stride()):
            return self.link
        spikes = _Unpacked.apply(self.link, self.words, self.steps)
        remember(spikes, Packed(self.words, self.steps))
        return spikes


def known_bits(spikes: Tensor) -> PackedSpikes | None:
    """The packed form of a spike train that this package made and nothing has changed since."""
    record = recall(spikes)
    return None if record is None or record.then else PackedSpikes(record.words, record.steps, spikes)


class _Link(torch.autograd.Function):
    """A link to given spikes, whose numbers nobody vouches for: the bits alone count from here on."""

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
        return _ops.unpack(words, steps, link.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, None, None


def ghost(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """A tensor of this shape that occupies the memory of one number."""
    return like.new_empty(()).expand(shape)
