"""Image sets, whole in memory: digits, MNIST and Fashion-MNIST, and the form in which any image set is trained on.

Images stay 8-bit integers until a batch is drawn; a batch is normalised, with the mean and the standard deviation of
all training pixels where the set brings none of its own.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tssl_triton import encoding
from tssl_triton._extras import require
from tssl_triton.encoding import StaticInput

from .base import Batch, DataError, Options, in_one_line
from .crops import crop, draw_crops

#: Files of a set in the layout of torchvision, ``root/<folder>/raw/``.
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True)
class ImageSet:
    """Training and test images of one data set; a network sees each image unchanged at every time step.

    Args:
        name: what `load` was asked for.
        train_images: ``(N, C, H, W)`` uint8.
        train_labels: ``(N,)`` int64.
        test_images: ``(M, C, H, W)`` uint8.
        test_labels: ``(M,)`` int64.
        classes: number of classes.
        mean: what is subtracted from a pixel, in units of a pixel: a number, or ``(C, 1, 1)``.
        std: what it is divided by then, likewise.
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
        """Cutting crops costs something on a CPU; on a GPU a batch is a few launches, which nothing waits for."""
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
        """What makes a training batch of indices ``(B,)`` in an epoch.

        Where images are cropped, each has its crop in each epoch: a function of seed, epoch and image, whatever the
        batches are and wherever the epoch was taken up.
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
        """Test images and labels from ``start`` to before ``stop``, as `train_batch` gives them."""
        return self._normalised(self.test_images[start:stop]), self.test_labels[start:stop]

    def present(self, values: Tensor, steps: int) -> StaticInput:
        """The images as a constant input current."""
        return encoding.static(values, steps)

    def _normalised(self, pixels: Tensor) -> Tensor:
        return pixels.to(torch.float32).sub_(self.mean).div_(self.std)


def load_digits(root: Path, download: bool, options: Options) -> ImageSet:
    """A fixed split: the first 1,437 images of a permutation with seed 0 train, the other 360 test.

    NumPy's ``RandomState`` draws it because its stream is frozen: the split is the same everywhere.
    """
    datasets = require("sklearn.datasets", "data", "the digits data set")
    digits = datasets.load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    images = torch.from_numpy(digits.images[order].astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(digits.target[order].astype(np.int64))
    split = len(labels) * 8 // 10
    return _image_set("digits", images[:split], labels[:split], images[split:], labels[split:])


def load_mnist(root: Path, download: bool, options: Options) -> ImageSet:
    """MNIST in torchvision's layout, ``root/MNIST/raw/``."""
    return _load_idx("mnist", "MNIST", root, download)


def load_fashion_mnist(root: Path, download: bool, options: Options) -> ImageSet:
    """Fashion-MNIST in torchvision's layout, ``root/FashionMNIST/raw/``."""
    return _load_idx("fashion-mnist", "FashionMNIST", root, download)


def _load_idx(name: str, kind: str, root: Path, download: bool) -> ImageSet:
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
    """Training and test half of a set as torchvision reads them.

    Args:
        name: the set's name in errors.
        kind: its class in ``torchvision.datasets``.
        root: the class's first argument.
        folder: where its files lie.
        files: those that must be there.
        download: whether torchvision may fetch what is missing.

    Raises:
        DataError: if files are missing, cannot be fetched or cannot be read.
        MissingExtraError: if torchvision is not installed.
    """
    constructor = getattr(require("torchvision.datasets", "data", f"reading {name}"), kind)
    missing = [file for file in files if not (folder / file).is_file()]
    if missing and download:
        _download(constructor, name, root, folder, missing)
    elif missing:
        raise DataError(f"{name} not found: {_looked_for(folder, missing)}; allow the download or put the files there")
    try:
        train, test = (constructor(root, train=flag, download=False) for flag in (True, False))
    # torchvision reads its files with bare parsers: a damaged one can raise any of these.
    except (
        AssertionError,
        EOFError,
        IndexError,
        KeyError,
        OSError,
        pickle.UnpicklingError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise DataError(f"{name} cannot be read, the files in {folder} are damaged: {in_one_line(error)}") from error
    return train, test


def _download(constructor: Callable[..., object], name: str, root: Path, raw: Path, missing: list[str]) -> None:
    try:
        constructor(root, train=True, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} could not be downloaded: {in_one_line(error)}; {_looked_for(raw, missing)}; "
            "download the files on another machine and put them there, or name another folder as the data root"
        ) from error


def _looked_for(raw: Path, missing: list[str]) -> str:
    return f"looked for {', '.join(missing)} in {raw}"


def _image_set(
    name: str, train_images: Tensor, train_labels: Tensor, test_images: Tensor, test_labels: Tensor
) -> ImageSet:
    # From a histogram, in exact integers: the same numbers on every machine, and no copy of the set as floats.
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
