"""Image data sets, whole in memory, and the order in which training walks through them.

=================  =========================  ===================================================================
``digits``         1,797 images of 8x8        carried by scikit-learn, nothing to download
``mnist``          70,000 images of 28x28     read, and downloaded where that is allowed, by torchvision
``fashion-mnist``  70,000 images of 28x28     the same
=================  =========================  ===================================================================

Images stay 8-bit integers until a batch is drawn; a batch is normalised, with the mean and the standard deviation of
all training pixels.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tssl_triton._extras import require

#: Files of a set in the layout of torchvision, ``root/<folder>/raw/``.
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class DataError(RuntimeError):
    """A data set that is not there, cannot be fetched, or cannot be read."""


@dataclass(frozen=True)
class ImageSet:
    """Training and test images of one data set.

    Args:
        name: what `load` was asked for.
        train_images: ``(N, C, H, W)`` uint8.
        train_labels: ``(N,)`` int64.
        test_images: ``(M, C, H, W)`` uint8.
        test_labels: ``(M,)`` int64.
        classes: number of classes.
        mean: mean of the training pixels, in units of a pixel.
        std: their standard deviation.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: int
    mean: float
    std: float

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """Shape of one image, ``(C, H, W)``."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with its tensors on ``device``."""
        moved = {
            field.name: getattr(self, field.name).to(device)
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)

    def train_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Training images ``(B, C, H, W)``, float32 and normalised, and labels ``(B,)``, at ``indices`` ``(B,)``."""
        return self._normalised(self.train_images[indices]), self.train_labels[indices]

    def test_batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Test images and labels from ``start`` to before ``stop``, as `train_batch` gives them."""
        return self._normalised(self.test_images[start:stop]), self.test_labels[start:stop]

    def _normalised(self, pixels: Tensor) -> Tensor:
        return pixels.to(torch.float32).sub_(self.mean).div_(self.std)


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of ``count`` samples in an epoch, ``(count,)`` int64 on the CPU.

    A function of its arguments alone, so a run that goes on after an interruption sees the same order,
    whatever other random numbers were drawn before.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(count, generator=generator)


def load(name: str, root: str | os.PathLike[str] = "data", download: bool = True) -> ImageSet:
    """Load a data set by name.

    Args:
        name: ``"digits"``, ``"mnist"`` or ``"fashion-mnist"``.
        root: folder under which torchvision keeps its sets (``root/MNIST/raw/...``); digits need none.
        download: fetch files that are not there yet.

    Raises:
        ValueError: if ``name`` is unknown.
        DataError: if files are missing, cannot be fetched or cannot be read.
        MissingExtraError: if the library that reads the set is not installed.
    """
    if name not in LOADERS:
        raise ValueError(f"name must be one of {', '.join(map(repr, LOADERS))}, got {name!r}")
    return LOADERS[name](Path(root), download)


def _load_digits(root: Path, download: bool) -> ImageSet:
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


def _load_mnist(root: Path, download: bool) -> ImageSet:
    return _load_torchvision("mnist", "MNIST", root, download)


def _load_fashion_mnist(root: Path, download: bool) -> ImageSet:
    return _load_torchvision("fashion-mnist", "FashionMNIST", root, download)


LOADERS: dict[str, Callable[[Path, bool], ImageSet]] = {
    "digits": _load_digits,
    "mnist": _load_mnist,
    "fashion-mnist": _load_fashion_mnist,
}


def _load_torchvision(name: str, folder: str, root: Path, download: bool) -> ImageSet:
    constructor = getattr(require("torchvision.datasets", "data", f"reading {name}"), folder)
    raw = (root / folder / "raw").absolute()
    missing = [file for file in IDX_FILES if not (raw / file).is_file()]
    if missing and download:
        _download(constructor, name, root, raw, missing)
    elif missing:
        raise DataError(f"{name} not found: {_looked_for(raw, missing)}; allow the download or put the files there")
    try:
        train, test = (constructor(root, train=flag, download=False) for flag in (True, False))
    # torchvision reads IDX files with a bare parser: a damaged one can raise any of these.
    except (AssertionError, EOFError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"{name} cannot be read, the files in {raw} are damaged: {_in_one_line(error)}") from error
    for part, split in (("training", train), ("test", test)):
        if split.data.dim() != 3 or len(split.data) != len(split.targets) or not len(split.data):
            raise DataError(
                f"{name} cannot be read, the files in {raw} are damaged: {part} images have shape "
                f"{tuple(split.data.shape)}, labels {tuple(split.targets.shape)}"
            )
    return _image_set(name, train.data.unsqueeze(1), train.targets, test.data.unsqueeze(1), test.targets)


def _download(constructor: Callable[..., object], name: str, root: Path, raw: Path, missing: list[str]) -> None:
    try:
        constructor(root, train=True, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} could not be downloaded: {_in_one_line(error)}; {_looked_for(raw, missing)}; "
            "download the files on another machine and put them there, or name another folder as the data root"
        ) from error


def _looked_for(raw: Path, missing: list[str]) -> str:
    return f"looked for {', '.join(missing)} in {raw}"


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


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
