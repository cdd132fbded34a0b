"""Arguments of a window: rows of tensors, numbers, or None."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """Rows ``first``, ``first + step``, ... of a tensor ``(R, *)``, ``length`` in all.

    Each row is dense, all have the same memory order, and they follow one another in memory.
    """

    tensor: Tensor
    first: int
    length: int
    step: int = 1

    @property
    def neurons(self) -> int:
        """Elements of a row."""
        return self.tensor.numel() // self.tensor.shape[0]

    def as_tensors(self) -> list[Tensor]:
        """The rows as tensors ``(N,)`` in memory order."""
        rows = flat(self.tensor)
        return [rows[self.first + k * self.step] for k in range(self.length)]


Argument = Rows | int | None
"""Rows, or a number that is the same for all neurons. A window takes lists of tensors for rows."""

Signature = tuple[torch.dtype, int] | Literal["number"] | None
"""The part of an argument that the generated code depends on: type and number of rows."""


def signature(argument: Argument) -> Signature:
    """The argument's signature."""
    if isinstance(argument, Rows):
        return argument.tensor.dtype, argument.length
    return "number" if isinstance(argument, int) else None


def all_rows(tensor: Tensor | None) -> Rows | None:
    """All rows of a tensor; None for None."""
    return None if tensor is None else Rows(tensor, 0, tensor.shape[0])


def flat(x: Tensor) -> Tensor:
    """The ``(R, N)`` view, in memory order, of a tensor with dense rows."""
    rows = x.shape[0]
    neurons = x.numel() // rows
    return x.as_strided((rows, neurons), (neurons, 1))


def as_tensors(arguments: Sequence[Argument]) -> list[Any]:
    """Arguments as a window takes them in eager PyTorch."""
    found: list[Any] = []
    for argument in arguments:
        if isinstance(argument, Rows):
            found.append(argument.as_tensors())
        elif isinstance(argument, int):
            found.append(torch.full((), argument, dtype=torch.int32, device="cpu"))
        else:
            found.append(None)
    return found
