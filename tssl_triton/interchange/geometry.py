"""Sizes of images and windows, in NIR's many ways of writing them."""

from __future__ import annotations

from typing import Any

import numpy as np


def windows(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> tuple[int, int]:
    """How many windows fit into an image of ``size``, down and across.

    Raises:
        ValueError: if none does.
    """
    padded = [extent + 2 * margin for extent, margin in zip(size, padding, strict=True)]
    if any(window > extent for window, extent in zip(kernel, padded, strict=True)):
        raise ValueError(f"a window of {kernel} does not fit its input of {size} with padding {padding}")
    down, across = ((extent - window) // step + 1 for extent, window, step in zip(padded, kernel, stride, strict=True))
    return down, across


def image_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of images ``(C, H, W)``.

    Raises:
        ValueError: if ``shape`` is that of something else.
    """
    if len(shape) != 3:
        raise ValueError(f"it takes images (C, H, W), its input has shape {shape}")
    return shape[1], shape[2]


def pair(name: str, value: Any) -> tuple[int, int]:
    """Height and width from one number, a pair, or what a file makes of them.

    Raises:
        ValueError: for anything else.
    """
    numbers = np.atleast_1d(value)
    if numbers.size not in (1, 2) or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"{name} must be one integer or two, got {value!r}")
    return int(numbers.flat[0]), int(numbers.flat[-1])
