"""The interface of all data sets."""

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
    """A data set is missing, or cannot be downloaded or read."""


@dataclass(frozen=True)
class Options:
    """Options of `tssl_triton.data.load`; each loader uses those that apply to it."""

    augment: bool = False
    steps: int = 30
    bin_ms: float = 3.0
    downsample: int = 1


class DataSet(Protocol):
    """Training and test samples of one data set, in batches.

    A batch is a pair of values, images ``(B, C, H, W)`` or spike trains ``(T, B, C, H, W)``, and labels ``(B,)``.
    `present` converts the values to the input of a network.
    """

    @property
    def name(self) -> str:
        """Name of the set in `tssl_triton.data.load`."""

    @property
    def noun(self) -> str:
        """Plural noun for the samples, such as ``images``."""

    @property
    def classes(self) -> int:
        """Number of classes."""

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """Shape of a network's input at one step, ``(C, H, W)``."""

    @property
    def train_labels(self) -> Tensor:
        """``(N,)`` int64; indices of training samples must be on the same device."""

    @property
    def test_labels(self) -> Tensor:
        """``(M,)`` int64."""

    @property
    def costly(self) -> bool:
        """Whether making a batch takes enough CPU time to do it in advance, in a background thread."""

    def to(self, device: torch.device | str) -> DataSet:
        """The same set, its batches on ``device``."""

    def training(self, seed: int, epoch: int) -> Callable[[Tensor], Batch]:
        """A function that makes a training batch from indices ``(B,)`` in an epoch: `train_batch`, with augmentation
        if the set has any. Its random numbers depend on ``seed`` and ``epoch`` alone."""

    def train_batch(self, indices: Tensor) -> Batch:
        """The training samples at ``indices`` ``(B,)``, without augmentation."""

    def test_batch(self, start: int, stop: int) -> Batch:
        """Test samples from ``start`` to ``stop - 1``."""

    def present(self, values: Tensor, steps: int) -> StaticInput | Tensor:
        """The input of a network for ``steps`` time steps, from the values of a batch."""


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of ``count`` samples in an epoch, ``(count,)`` int64 on the CPU.

    It depends on the arguments alone, so a resumed run uses the same order.
    """
    return torch.randperm(count, generator=epoch_generator(seed, epoch))


def epoch_generator(seed: int, epoch: int, stream: int = 0) -> torch.Generator:
    """A random number generator that depends on seed, epoch and ``stream`` alone."""
    number = (seed * 1_000_003 + epoch) ^ (stream * 0x9E37_79B9_7F4A_7C15)
    return torch.Generator().manual_seed(number % 2**63)


def in_one_line(error: BaseException) -> str:
    """The message of an error on one line, or its type if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__
