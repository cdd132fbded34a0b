"""Data sets by name, and the order of training samples.

=================  ===========================  ================================================================
``digits``         1,797 images of 8x8          part of scikit-learn, no download
``mnist``          70,000 images of 28x28       read and downloaded by torchvision
``fashion-mnist``  70,000 images of 28x28       the same
``cifar10``        60,000 images of 3x32x32     the same; optional random crops and mirroring of training images
``n-mnist``        70,000 recordings, 2x34x34   the published event files, or downloaded by tonic
``dvs-gesture``    recordings, 2x128x128        the published trials, or recordings cut and downloaded by tonic
=================  ===========================  ================================================================

The first four are an `ImageSet`, the last two an `EventSet`; `DataSet` is the interface that the trainer uses.
``docs/datasets.md`` lists the files and folders.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tssl_triton._checks import check_count, check_finite, check_flag

from .base import DataError as DataError
from .base import DataSet as DataSet
from .base import Options
from .base import epoch_order as epoch_order
from .cifar10 import load_cifar10
from .dvs_gesture import load_dvs_gesture
from .events import EventSet as EventSet
from .images import IDX_FILES as IDX_FILES
from .images import ImageSet as ImageSet
from .images import load_digits, load_idx
from .n_mnist import load_n_mnist
from .prefetch import Prefetcher as Prefetcher

LOADERS: dict[str, Callable[[Path, bool, Options], DataSet]] = {
    "digits": load_digits,
    "mnist": partial(load_idx, "mnist", "MNIST"),
    "fashion-mnist": partial(load_idx, "fashion-mnist", "FashionMNIST"),
    "cifar10": load_cifar10,
    "n-mnist": load_n_mnist,
    "dvs-gesture": load_dvs_gesture,
}

#: Sets with random augmentation of training images.
AUGMENTED = ("cifar10",)


def load(
    name: str,
    root: str | os.PathLike[str] = "data",
    download: bool = True,
    *,
    augment: bool = False,
    steps: int = 30,
    bin_ms: float = 3.0,
    downsample: int = 1,
) -> DataSet:
    """Load a data set by name.

    Args:
        name: a key of `LOADERS`: ``"digits"``, ``"mnist"``, ``"fashion-mnist"``, ``"cifar10"``, ``"n-mnist"`` or
            ``"dvs-gesture"``.
        root: folder of the data sets (``root/MNIST/raw/...``); not used for digits.
        download: download missing files.
        augment: crop and mirror training images at random; for the sets in `AUGMENTED` only.
        steps: event sets: time steps T of a recording; later events are dropped.
        bin_ms: event sets: length of a time step in milliseconds.
        downsample: event sets: side of the square of pixels that are merged into one; must divide the sensor's sides.

    Raises:
        ValueError, TypeError: if an argument is invalid; the message names it.
        DataError: if files are missing, or cannot be downloaded or read.
        MissingExtraError: if the library that reads the set is not installed.
    """
    if name not in LOADERS:
        raise ValueError(f"name must be one of {', '.join(map(repr, LOADERS))}, got {name!r}")
    if check_flag("augment", augment) and name not in AUGMENTED:
        raise ValueError(
            f"augment must be False for {name}, which has no augmentation; only {', '.join(AUGMENTED)} has one"
        )
    steps = check_count("steps", steps)
    downsample = check_count("downsample", downsample)
    if check_finite("bin_ms", bin_ms) <= 0:
        raise ValueError(f"bin_ms must be > 0, got {bin_ms!r}")
    return LOADERS[name](Path(root), download, Options(augment, steps, float(bin_ms), downsample))
