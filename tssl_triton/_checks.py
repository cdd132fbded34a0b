"""Checks of arguments; every error message names the argument, the accepted values and the value received."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
DEVICES = ("cpu", "cuda")


def check_sequence(name: str, x: object, lowest_rank: int = 2) -> Tensor:
    """Check for a floating-point tensor ``(T, B, *)`` with T >= 1 on a supported device."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor (T, B, *), got {type(x).__name__}")
    check_input(name, x.shape, x.dtype, x.device, lowest_rank)
    return x


def check_input(
    name: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device, lowest_rank: int = 2
) -> None:
    """Shape, type and device of a floating tensor ``(T, B, *)`` with T >= 1, on a device with an implementation."""
    check_rank(name, shape, lowest_rank)
    if dtype not in FLOATING:
        accepted = ", ".join(map(str, FLOATING))
        raise TypeError(f"{name} must be one of {accepted}, got {dtype}")
    check_device(name, device)
    if shape[0] == 0:
        raise ValueError(f"{name} must hold at least one time step, got T = 0 in shape {tuple(shape)}")


def check_same_dtype(name: str, x: Tensor, weight: Tensor) -> None:
    """Check that ``x`` has the dtype of the weights, unless autocast converts both."""
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(f"{name} must be {weight.dtype} as the layer's weight is, got {x.dtype}; convert one of them")


def check_rank(name: str, shape: Sequence[int], lowest_rank: int) -> None:
    if len(shape) < lowest_rank:
        axes = ", ".join(("T", "B", "features", "...")[:lowest_rank])
        raise ValueError(
            f"{name} must be time-major with at least {lowest_rank} axes ({axes}), got shape {tuple(shape)}; "
            "add a time axis with x.unsqueeze(0), or present an image with tssl_triton.encoding.static(x, steps)"
        )


def check_features(name: str, shape: Sequence[int], features: int) -> None:
    """Check for a shape ``(T, B, *)`` with ``features`` elements per step and sample."""
    found = math.prod(shape[2:])
    if len(shape) < 3 or found != features:
        raise ValueError(
            f"{name} must be (T, B, *) with {features} features in all, got {found} in shape {tuple(shape)}"
        )


def check_images(name: str, shape: Sequence[int], size: tuple[int, int]) -> None:
    """Check for a shape ``(T, B, C, H, W)`` of images at least as large as a window of ``size``."""
    height, width = size
    if len(shape) != 5 or shape[3] < height or shape[4] < width:
        raise ValueError(
            f"{name} must be (T, B, C, H, W) with H >= {height} and W >= {width}, got shape {tuple(shape)}"
        )


def check_device(name: str, device: torch.device) -> None:
    if device.type not in DEVICES:
        raise ValueError(f"{name} must be on a CPU, CUDA or ROCm device, got {device}")


def check_like(name: str, x: object, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Check for a floating-point tensor of exactly this shape on this device."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor of shape {shape}, got {type(x).__name__}")
    if tuple(x.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor, got {x.dtype}")
    if x.device != device:
        raise ValueError(f"{name} must be on {device} as the input is, got {x.device}")
    return x


def check_broadcastable(name: str, x: object, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Check for a floating-point tensor on this device that broadcasts to this shape."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor that broadcasts to {shape}, got {type(x).__name__}")
    given = tuple(x.shape)
    sizes = zip(reversed(given), reversed(shape), strict=False)
    if len(given) > len(shape) or any(size not in (1, wanted) for size, wanted in sizes):
        raise ValueError(f"{name} must broadcast to {shape}, got shape {given}")
    return check_like(name, x, given, device)


def check_count(name: str, value: object, lowest: int = 1) -> int:
    """Check for an integer >= ``lowest``, from Python or NumPy, other than a bool."""
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, Integral)):
        raise TypeError(f"{name} must be an integer >= {lowest}, got {value!r}")
    if value < lowest:
        raise ValueError(f"{name} must be an integer >= {lowest}, got {value}")
    return int(value)


def check_shape(name: str, value: object) -> tuple[int, ...]:
    """Check for a sequence of sizes >= 1."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a sequence of integers >= 1, got {value!r}")
    return tuple(check_count(f"every size in {name}", size) for size in value)


def check_pair(name: str, value: object, lowest: int) -> tuple[int, int]:
    """Check for one integer, or two for height and width."""
    values = (value, value) if isinstance(value, Integral) else value
    if not isinstance(values, (tuple, list)) or len(values) != 2:
        raise TypeError(f"{name} must be an integer >= {lowest} or a pair of them, got {value!r}")
    height, width = (check_count(name, v, lowest) for v in values)
    return height, width


def check_finite(name: str, value: object) -> float:
    """Check for a finite number, from Python or NumPy, other than a bool."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a finite number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def check_choice(name: str, value: object, accepted: tuple[str, ...]) -> str:
    if value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, accepted))}, got {value!r}")
    return str(value)


def check_dtype(name: str, value: object) -> torch.dtype:
    if not isinstance(value, torch.dtype):
        raise TypeError(f"{name} must be a torch.dtype, got {value!r}")
    return value


def check_flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value
