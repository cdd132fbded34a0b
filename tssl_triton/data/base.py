"""What all data sets have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tssl_triton._errors import UserError
from tssl_triton.encoding import StaticInput

#: Values of a batch, as `DataSet.present` takes them, and labels ``(B,)``.
Batch = tuple[Tensor, Tensor]


class DataError(UserError, RuntimeError):
    """A data set that is not there, cannot be fetched, or cannot be read."""


@dataclass(frozen=True)
class Options:
    """How a set is to be loaded; each loader reads those that concern it. See `tssl_triton.data.load`."""

    augment: bool = False
    steps: int = 30
    bin_ms: float = 3.0
    downsample: int = 1


class DataSet(Protocol):
    """Training and test samples of one data set, drawn in whole batches.

    A batch is its values, images ``(B, C, H, W)`` or spike trains ``(T, B, C, H, W)``, and its labels ``(B,)``;
    `present` makes a network's input of the values.
    """

    @property
    def name(self) -> str:
        """What `tssl_triton.data.load` was asked for."""
        ...

    @property
    def noun(self) -> str:
        """What the samples are, in the plural."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes."""
        ...

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """Shape of a network's input at one step, ``(C, H, W)``."""
        ...

    @property
    def train_labels(self) -> Tensor:
        """``(N,)`` int64; indices of training samples live on the same device."""
        ...

    @property
    def test_labels(self) -> Tensor:
        """``(M,)`` int64."""
        ...

    @property
    def costly(self) -> bool:
        """Whether a batch costs the host enough to be made by a thread of its own, ahead of its use."""
        ...

    def to(self, device: torch.device | str) -> DataSet:
        """The same set, its batches on ``device``."""
        ...

    def training(self, seed: int, epoch: int) -> Callable[[Tensor], Batch]:
        """What makes a training batch of indices ``(B,)`` in an epoch: as `train_batch`, varied at random where the
        set is augmented. Its random numbers are a function of ``seed`` and ``epoch`` alone."""
        ...

    def train_batch(self, indices: Tensor) -> Batch:
        """The training samples at ``indices`` ``(B,)`` as they are."""
        ...

    def test_batch(self, start: int, stop: int) -> Batch:
        """Test samples from ``start`` to before ``stop``."""
        ...

    def present(self, values: Tensor, steps: int) -> StaticInput | Tensor:
        """The values of a batch as input of a network for ``steps`` time steps."""
        ...


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of ``count`` samples in an epoch, ``(count,)`` int64 on the CPU.

    A function of its arguments alone, so a run that goes on after an interruption sees the same order,
    whatever other random numbers were drawn before.
    """
    return torch.randperm(count, generator=epoch_generator(seed, epoch))


def epoch_generator(seed: int, epoch: int, stream: int = 0) -> torch.Generator:
    """Random numbers that depend on seed and epoch alone; each ``stream`` has its own."""
    number = (seed * 1_000_003 + epoch) ^ (stream * 0x9E37_79B9_7F4A_7C15)
    return torch.Generator().manual_seed(number % 2**63)


def in_one_line(error: BaseException) -> str:
    """The message of an error, or its name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
