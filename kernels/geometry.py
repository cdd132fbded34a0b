"""Sizes of a convolution on packed spikes (plain Python, no Triton)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """Sizes of a convolution (correlation, as the field has it): kernel, stride, padding and what comes out."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    out_h: int = 1
    out_w: int = 1

    @classmethod
    def of(
        cls, height: int, width: int, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
    ) -> Geometry:
        """The geometry of a kernel on ``height`` x ``width`` images."""
        out_h = (height + 2 * padding[0] - kernel[0]) // stride[0] + 1
        out_w = (width + 2 * padding[1] - kernel[1]) // stride[1] + 1
        return cls(stride, padding, out_h, out_w)

    def arguments(self, inputs: Tensor, weight: Tensor) -> dict[str, Any]:
        """What the kernels need of it, for packed ``inputs (words, B, C, H, W)`` and ``weight (N, C, R, S)``."""
        names = ("word", "b", "c", "h", "w")
        strides = {f"stride_in_{name}": stride for name, stride in zip(names, inputs.stride(), strict=True)}
        weights = zip("ncrs", weight.stride(), strict=True)
        return {
            "C": inputs.shape[2],
            "H": inputs.shape[3],
            "W": inputs.shape[4],
            "OUT_H": self.out_h,
            "OUT_W": self.out_w,
            **strides,
            **{f"stride_weight_{name}": stride for name, stride in weights},
            "R": weight.shape[2],
            "S": weight.shape[3],
            "STRIDE_H": self.stride[0],
            "STRIDE_W": self.stride[1],
            "PAD_H": self.padding[0],
            "PAD_W": self.padding[1],
        }
