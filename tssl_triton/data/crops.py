"""The usual augmentation of CIFAR-10: zero padding, a random crop of the original size, random mirroring.

Three random numbers per image and epoch are drawn for all images at once; cropping is one gather per batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import epoch_generator

#: Zeros on each side of an image.
MARGIN = 4


def draw_crops(count: int, seed: int, epoch: int) -> Tensor:
    """For each of ``count`` images: first row and column of its window, in [0, 2 MARGIN], and 1 if it is mirrored.

    ``(count, 3)`` int64 on the CPU, a function of the arguments alone.
    """
    generator = epoch_generator(seed, epoch, stream=1)
    corners = torch.randint(0, 2 * MARGIN + 1, (count, 2), generator=generator)
    mirrored = torch.randint(0, 2, (count, 1), generator=generator)
    return torch.cat([corners, mirrored], dim=1)


def crop(images: Tensor, crops: Tensor) -> Tensor:
    """Apply ``crops`` ``(B, 3)`` from `draw_crops` to ``images`` ``(B, C, H, W)``; the shape is unchanged."""
    batch, channels, height, width = images.shape
    padded = F.pad(images, (MARGIN,) * 4)
    top, left, mirrored = crops[:, None].unbind(-1)  # (B, 1) each
    rows = top + torch.arange(height, device=images.device)
    across = torch.arange(width, device=images.device)
    columns = left + torch.where(mirrored == 1, width - 1 - across, across)
    # Positions in a padded image, the same for all channels: (B, 1, H W).
    places = (rows[:, :, None] * (width + 2 * MARGIN) + columns[:, None, :]).view(batch, 1, height * width)
    cut = padded.flatten(2).gather(2, places.expand(batch, channels, height * width))
    return cut.view(batch, channels, height, width)
