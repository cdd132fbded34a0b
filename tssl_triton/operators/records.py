"""The packed form of spike tensors, remembered beside them, so that layers need not keep floats for backward.

A weighted layer's weight gradient needs its input again. Where that input is a spike train which `lif` has just
made, its bits are at hand and already kept; where it is a pooled or dropped-out spike train, it can be worked out
from the bits once more. So each such tensor has a `Packed` record, found by the tensor's identity and forgotten with
it, and a layer that finds one saves that instead of the tensor: 1 bit per neuron-step, not 32.

A tensor that was changed in place since is no longer what its record says; it is told by its version counter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from tssl_triton.cpu.sum_pooling import SumPool

from . import neuron as _ops

Step = tuple[Callable[..., Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Packed:
    """Packed spikes and what has been done to them since.

    Args:
        words: packed spikes, ``(words, B, *)``.
        steps: number of time steps T.
        then: functions to apply to the unpacked spikes, in order, each with the tensors it needs besides.
    """

    words: Tensor
    steps: int
    then: tuple[Step, ...] = ()

    def followed_by(self, function: Callable[..., Tensor], *tensors: Tensor) -> Packed:
        return Packed(self.words, self.steps, (*self.then, (function, tensors)))

    def tensors(self) -> tuple[Tensor, ...]:
        """All that must be kept to rebuild the dense tensor."""
        found = [self.words]
        for _, tensors in self.then:
            found += tensors
        return tuple(found)

    def rebuild(self, tensors: tuple[Tensor, ...], dtype: torch.dtype, last: bool = False) -> Tensor:
        """The dense tensor, from what `tensors` returned; with ``last`` channels last, where that takes no longer."""
        words, *others = tensors
        rest, then, dense = iter(others), list(self.then), None
        if then and isinstance(then[0][0], SumPool):
            dense = then[0][0].of_bits(words, self.steps, dtype, last)
        if dense is None:
            dense = _ops.unpack(words, self.steps, dtype)
        else:
            del then[0]
        for function, needed in then:
            dense = function(dense, *(next(rest) for _ in needed))
        return dense


_records: WeakIdKeyDictionary = WeakIdKeyDictionary()


def remember(dense: Tensor, packed: Packed) -> None:
    """Note that ``packed`` is the packed form of ``dense``; not of inference tensors, whose changes nobody counts."""
    if not torch.compiler.is_compiling() and not dense.is_inference():
        _records[dense] = (dense._version, packed)


def recall(dense: Tensor) -> Packed | None:
    """The packed form of ``dense``, if it has one and has not been changed in place."""
    if torch.compiler.is_compiling():
        return None
    record = _records.get(dense)
    if record is None:
        return None
    version, packed = record
    return packed if version == dense._version else None
