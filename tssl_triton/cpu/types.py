"""Tensor types in C++.

16-bit reals are integers in memory and floats in registers (`csrc/halves.hpp`); every other type is the same in both.
"""

from __future__ import annotations

import math

import torch

TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.uint8: "uint8_t",
    torch.int16: "int16_t",
    torch.int32: "int32_t",
    torch.int64: "int64_t",
    torch.bool: "bool",
}
"""C++ names of the types that need no conversion."""

HALVES = {torch.float16: "float16", torch.bfloat16: "bfloat16"}
"""Names of the 16-bit reals in the functions of `csrc/halves.hpp`."""


def memory(dtype: torch.dtype) -> str:
    """The C++ type of a tensor's elements in memory."""
    return "uint16_t" if dtype in HALVES else TYPES[dtype]


def register(dtype: torch.dtype) -> str:
    """The C++ type of a value of ``dtype`` in registers."""
    return "float" if dtype in HALVES else TYPES[dtype]


def conversions(dtype: torch.dtype) -> str:
    """The C++ struct that names both types and converts between them."""
    return f"Halves_{HALVES[dtype]}" if dtype in HALVES else f"Plain<{TYPES[dtype]}>"


def cast(value: str, dtype: torch.dtype) -> str:
    """C++ for ``value`` converted to ``dtype``."""
    return f"as_{HALVES[dtype]}({value})" if dtype in HALVES else f"({TYPES[dtype]}){value}"


def literal(number: float | bool, dtype: torch.dtype) -> str:
    """C++ for a constant of ``dtype``."""
    if not dtype.is_floating_point:
        return f"({TYPES[dtype]}){int(number)}"
    value = float(number)
    return cast(f"({value.hex() if math.isfinite(value) else f'{math.copysign(1, value)} / 0.0'})", dtype)
