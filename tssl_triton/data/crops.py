"""Random crops and mirror images, as CIFAR-10 is trained with: zeros around an image, a window of its size, a coin.

An image gets a margin of zeros, a window of the image's own size is cut out at a random place, and half of the windows
are mirrored left to right. What is random about an image in an epoch is three numbers, drawn for all images at once;
cutting is one gather for the whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import epoch_generator

#: Zeros on each side of an image.
MARGIN = 4


def draw_crops(count: int, seed: int, epoch: int) -> Tensor:
    """For each of ``count`` images: row and column at which its window begins, in [0, 2 MARGIN], and whether it is
    mirrored. ``(count, 3)`` int64 on the CPU, a function of the arguments alone."""
    generator = epoch_generator(seed, epoch, stream=1)
    corners = torch.randint(0, 2 * MARGIN + 1, (count, 2), generator=generator)
    mirrored = torch.randint(0, 2, (count, 1), generator=generator)
    return torch.cat([corners, mirrored], dim=1)


def crop(images: Tensor, crops: Tensor) -> Tensor:
    """Cut ``crops`` ``(B, 3)``, as `draw_crops` gives them, out of ``images`` ``(B, C, H, W)``; the shape stays."""
    batch, channels, height, width = images.shape
    padded = F.pad(images, (MARGIN,) * 4)
    top, left, mirrored = crops[:, None].unbind(-1)  # (B, 1) each
    rows = top + torch.arange(height, device=images.device)
    across = torch.arange(width, device=images.device)
    columns = left + torch.where(mirrored == 1, width - 1 - across, across)
    # Positions in one padded image, the same for all of its channels: (B, 1, H W).
    places = (rows[:, :, None] * (width + 2 * MARGIN) + columns[:, None, :]).view(batch, 1, height * width)
    cut = padded.flatten(2).gather(2, places.expand(batch, channels, height * width))
    return cut.view(batch, channels, height, width)
