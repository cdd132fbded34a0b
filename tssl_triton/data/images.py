"""Image sets in memory: digits, MNIST and Fashion-MNIST, and the class of all image sets.

Images are stored as 8-bit integers. Each batch is normalised, by default with the mean and standard deviation of all
training pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tssl_triton._extras import require
from tssl_triton.encoding import StaticInput, static

from .base import Batch, DataError, Options, in_one_line
from .crops import crop, draw_crops

#: Files of a set in torchvision's layout, ``root/<folder>/raw/``.
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

#: Errors of torchvision's parsers for damaged files.
PARSER_ERRORS = (AssertionError, EOFError, LookupError, OSError, UnpicklingError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class ImageSet:
    """Training and test images of one data set; each image is presented unchanged at every time step.

    Args:
        name: of the set.
        train_images: ``(N, C, H, W)`` uint8.
        train_labels: ``(N,)`` int64.
        test_images: ``(M, C, H, W)`` uint8.
        test_labels: ``(M,)`` int64.
        classes: number of classes.
        mean: subtracted from a pixel in 0 to 255: a number, or ``(C, 1, 1)``.
        std: divides the difference: a number, or ``(C, 1, 1)``.
        augment: whether `training` crops and mirrors images at random, see `tssl_triton.data.crops`.
    """

    noun: ClassVar[str] = "images"

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: int
    mean: float | Tensor
    std: float | Tensor
    augment: bool = False

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """Shape of one image, ``(C, H, W)``."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    @property
    def costly(self) -> bool:
        """True for augmentation on a CPU; on a GPU, a batch is a few asynchronous kernel launches."""
        return self.augment and self.train_images.device.type == "cpu"

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with its tensors on ``device``."""
        moved = {
            field.name: getattr(self, field.name).to(device)
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)

    def training(self, seed: int, epoch: int) -> Callable[[Tensor], Batch]:
        """A function that makes a training batch from indices ``(B,)`` in an epoch.

        The crop of an image depends on seed, epoch and image alone, not on the batches or on where a run was resumed.
        """
        if not self.augment:
            return self.train_batch
        crops = draw_crops(len(self.train_images), seed, epoch).to(self.train_images.device)

        def batch(indices: Tensor) -> Batch:
            images = crop(self.train_images[indices], crops[indices])
            return self._normalised(images), self.train_labels[indices]

        return batch

    def train_batch(self, indices: Tensor) -> Batch:
        """Training images ``(B, C, H, W)``, float32 and normalised, and labels ``(B,)``, at ``indices`` ``(B,)``."""
        return self._normalised(self.train_images[indices]), self.train_labels[indices]

    def test_batch(self, start: int, stop: int) -> Batch:
        """Test images and labels from ``start`` to ``stop - 1``, in the format of `train_batch`."""
        return self._normalised(self.test_images[start:stop]), self.test_labels[start:stop]

    def present(self, values: Tensor, steps: int) -> StaticInput:
        """The images as a constant input."""
        return static(values, steps)

    def _normalised(self, pixels: Tensor) -> Tensor:
        return pixels.to(torch.float32).sub_(self.mean).div_(self.std)


def load_digits(root: Path, download: bool, options: Options) -> ImageSet:
    """A fixed split into 1,437 training and 360 test images: a permutation with seed 0.

    NumPy guarantees that the stream of ``RandomState`` never changes, so the split is the same everywhere.
    """
    datasets = require("sklearn.datasets", "data", "the digits data set")
    digits = datasets.load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    images = torch.from_numpy(digits.images[order].astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(digits.target[order].astype(np.int64))
    split = len(labels) * 8 // 10
    return _image_set("digits", images[:split], labels[:split], images[split:], labels[split:])


def load_idx(name: str, kind: str, root: Path, download: bool, options: Options) -> ImageSet:
    """MNIST or Fashion-MNIST in torchvision's layout, ``root/<kind>/raw/``."""
    raw = (root / kind / "raw").absolute()
    train, test = read_with_torchvision(name, kind, root, raw, IDX_FILES, download)
    for part, split in (("training", train), ("test", test)):
        if split.data.dim() != 3 or len(split.data) != len(split.targets) or not len(split.data):
            raise DataError(
                f"{name} cannot be read, the files in {raw} are damaged: {part} images have shape "
                f"{tuple(split.data.shape)}, labels {tuple(split.targets.shape)}"
            )
    return _image_set(name, train.data.unsqueeze(1), train.targets, test.data.unsqueeze(1), test.targets)


def read_with_torchvision(
    name: str, kind: str, root: Path, folder: Path, files: Sequence[str], download: bool
) -> tuple[Any, Any]:
    """Training and test half of a set, read by torchvision.

    Args:
        name: of the set, for errors.
        kind: its class in ``torchvision.datasets``.
        root: the class's first argument.
        folder: of its files.
        files: names of the required files.
        download: whether torchvision may download missing files.

    Raises:
        DataError: if files are missing, or cannot be downloaded or read.
        MissingExtraError: if torchvision is not installed.
    """
    constructor = getattr(require("torchvision.datasets", "data", f"reading {name}"), kind)
    missing = [file for file in files if not (folder / file).is_file()]
    looked_for = f"looked for {', '.join(missing)} in {folder}"
    if missing and not download:
        raise DataError(f"{name} not found: {looked_for}; allow the download or put the files there")
    try:
        if missing:
            constructor(root, train=True, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} could not be downloaded: {in_one_line(error)}; {looked_for}; "
            "download the files on another machine and put them there, or choose another data root"
        ) from error
    try:
        return constructor(root, train=True, download=False), constructor(root, train=False, download=False)
    except PARSER_ERRORS as error:
        raise DataError(f"{name} cannot be read, the files in {folder} are damaged: {in_one_line(error)}") from error


def _image_set(
    name: str, train_images: Tensor, train_labels: Tensor, test_images: Tensor, test_labels: Tensor
) -> ImageSet:
    # An exact histogram gives the same numbers on every machine, without a copy of the set as floats.
    histogram = torch.bincount(train_images.flatten(), minlength=256).tolist()
    count = sum(histogram)
    mean = sum(pixel * times for pixel, times in enumerate(histogram)) / count
    variance = sum(pixel * pixel * times for pixel, times in enumerate(histogram)) / count - mean * mean
    return ImageSet(
        name=name,
        train_images=train_images.contiguous(),
        train_labels=train_labels.to(torch.int64),
        test_images=test_images.contiguous(),
        test_labels=test_labels.to(torch.int64),
        classes=10,
        mean=mean,
        std=variance**0.5 if variance > 0 else 1.0,
    )
