"""CIFAR-10 (Krizhevsky, 2009): 60,000 colour images of 32x32 pixels in ten classes, read by torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .base import DataError, Options
from .images import ImageSet, read_with_torchvision

FOLDER = "cifar-10-batches-py"
FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")

#: Mean and standard deviation of red, green and blue for pixels in [0, 1]: the constants of the authors' released
#: program and of most programs for CIFAR-10. (The deviations are averages of the per-image deviations; over all pixels
#: they are 0.247, 0.243, 0.262.)
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)


def load_cifar10(root: Path, download: bool, options: Options) -> ImageSet:
    """CIFAR-10 in torchvision's layout, ``root/cifar-10-batches-py/``; torchvision verifies the checksums."""
    folder = (root / FOLDER).absolute()
    halves = read_with_torchvision("cifar10", "CIFAR10", root, folder, FILES, download)
    (train_images, train_labels), (test_images, test_labels) = (_tensors(half, folder) for half in halves)
    return ImageSet(
        name="cifar10",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=10,
        mean=255 * torch.tensor(MEAN).view(3, 1, 1),
        std=255 * torch.tensor(STD).view(3, 1, 1),
        augment=options.augment,
    )


def _tensors(half: Any, folder: Path) -> tuple[Tensor, Tensor]:
    images, labels = torch.from_numpy(half.data), torch.tensor(half.targets, dtype=torch.int64)
    if images.shape[1:] != (32, 32, 3) or len(images) != len(labels):
        raise DataError(
            f"cifar10 cannot be read, the files in {folder} are damaged: images have shape {tuple(images.shape)}, "
            f"labels {tuple(labels.shape)}"
        )
    return images.permute(0, 3, 1, 2).contiguous(), labels
