"""Sizes of images and windows, in the forms that NIR uses."""

from __future__ import annotations

from typing import Any

import numpy as np


def windows(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> tuple[int, int]:
    """Number of windows in an image of ``size``, vertically and horizontally.

    Raises:
        ValueError: if the window is larger than the image.
    """
    padded = [extent + 2 * margin for extent, margin in zip(size, padding, strict=True)]
    if any(window > extent for window, extent in zip(kernel, padded, strict=True)):
        raise ValueError(f"a window of {kernel} is larger than its input of {size} with padding {padding}")
    down, across = ((extent - window) // step + 1 for extent, window, step in zip(padded, kernel, stride, strict=True))
    return down, across


def image_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of images ``(C, H, W)``.

    Raises:
        ValueError: if ``shape`` has another number of axes.
    """
    if len(shape) != 3:
        raise ValueError(f"its input must be images (C, H, W), got shape {shape}")
    return shape[1], shape[2]


def pair(name: str, value: Any) -> tuple[int, int]:
    """Height and width from one integer or two, as numbers, sequences or arrays.

    Raises:
        ValueError: for any other value.
    """
    numbers = np.atleast_1d(value)
    if numbers.size not in (1, 2) or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"{name} must be one integer or two, got {value!r}")
    return int(numbers.flat[0]), int(numbers.flat[-1])
