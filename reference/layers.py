"""The linear maps between spiking neurons: full connection, convolution and pooling, each with its transpose.

Every step and sample is treated alike, so a map takes ``(T, B, *features)`` as ``(M, *features)``, M = T B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .neuron import Array, check_option


@dataclass(frozen=True)
class Linear:
    """y = W x + b on flattened features; its neurons are ``(out,)``.

    Args:
        weight: ``(out, in)``.
        bias: ``(out,)``, or None.
    """

    weight: np.ndarray
    bias: np.ndarray | None = None

    def forward(self, x: Array) -> Array:
        """``(M, *in_features)`` to ``(M, out)``."""
        y = np.einsum("oi,mi->mo", self.weight.astype(np.float64), x.reshape(len(x), -1))
        return y if self.bias is None else y + self.bias

    def backward(self, x: Array, grad_y: Array) -> tuple[Array, Array, Array]:
        """Gradients with respect to x, the weight and the bias."""
        grad_x = np.einsum("oi,mo->mi", self.weight.astype(np.float64), grad_y).reshape(x.shape)
        grad_weight = np.einsum("mo,mi->oi", grad_y, x.reshape(len(x), -1))
        return grad_x, grad_weight, grad_y.sum(axis=0)


@dataclass(frozen=True)
class Conv2d:
    """Convolution (correlation, as the field has it) with stride 1 on ``(in, H, W)``.

    Args:
        weight: ``(out, in, R, S)``.
        bias: ``(out,)``, or None.
        padding: zeros added at each side of height and width.
    """

    weight: np.ndarray
    bias: np.ndarray | None = None
    padding: int = 0

    def forward(self, x: Array) -> Array:
        """``(M, in, H, W)`` to ``(M, out, H + 2 padding - R + 1, W + 2 padding - S + 1)``."""
        windows = self._windows(self._padded(x))
        y = np.einsum("oirs,mihwrs->mohw", self.weight.astype(np.float64), windows, optimize=True)
        return y if self.bias is None else y + self.bias[:, None, None]

    def backward(self, x: Array, grad_y: Array) -> tuple[Array, Array, Array]:
        """Gradients with respect to x, the weight and the bias."""
        padded = self._padded(x)
        grad_weight = np.einsum("mohw,mihwrs->oirs", grad_y, self._windows(padded), optimize=True)

        # Each kernel element (r, s) sent x[h + r, w + s] to y[h, w]; its error goes the same way back.
        weight = self.weight.astype(np.float64)
        height, width = grad_y.shape[2:]
        grad_padded = np.zeros_like(padded)
        for r, s in np.ndindex(*weight.shape[2:]):
            sent_back = np.einsum("oi,mohw->mihw", weight[:, :, r, s], grad_y, optimize=True)
            grad_padded[:, :, r : r + height, s : s + width] += sent_back
        p = self.padding
        grad_x = grad_padded[:, :, p : p + x.shape[2], p : p + x.shape[3]]
        return grad_x, grad_weight, grad_y.sum(axis=(0, 2, 3))

    def _padded(self, x: Array) -> Array:
        p = self.padding
        return np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))

    def _windows(self, padded: Array) -> Array:
        """``(M, in, out_height, out_width, R, S)``."""
        return np.lib.stride_tricks.sliding_window_view(padded, self.weight.shape[2:], axis=(2, 3))


@dataclass(frozen=True)
class Pool:
    """Pooling over windows that do not overlap; rows and columns that fill no window are dropped.

    Args:
        size: side of the square window.
        kind: ``"sum"``, the window's sum times ``scale`` (the released program's choice), ``"average"`` or
            ``"max"``, whose error goes to the window's first largest element, row by row.
        scale: factor of ``"sum"``.
    """

    size: int
    kind: Literal["sum", "average", "max"] = "sum"
    scale: float = 1.1

    def forward(self, x: Array) -> Array:
        """``(M, C, H, W)`` to ``(M, C, H // size, W // size)``."""
        windows = self._windows(x)
        if self.kind == "max":
            return windows.max(axis=-1)
        return windows.sum(axis=-1) * self._factor()

    def backward(self, x: Array, grad_y: Array) -> Array:
        """Gradient with respect to x."""
        windows = self._windows(x)
        if self.kind == "max":
            share = np.arange(self.size**2) == windows.argmax(axis=-1)[..., None]
        else:
            share = np.full(windows.shape, self._factor())
        M, C, height, width = grad_y.shape
        n = self.size
        tiles = (share * grad_y[..., None]).reshape(M, C, height, width, n, n)
        grad_x = np.zeros_like(x)
        grad_x[:, :, : height * n, : width * n] = tiles.swapaxes(3, 4).reshape(M, C, height * n, width * n)
        return grad_x

    def _factor(self) -> float:
        check_option("kind", self.kind, ("sum", "average", "max"))
        return self.scale if self.kind == "sum" else 1 / self.size**2

    def _windows(self, x: Array) -> Array:
        """``(M, C, H // size, W // size, size * size)``, a window's elements row by row."""
        n = self.size
        M, C, height, width = x.shape
        whole = x[:, :, : height // n * n, : width // n * n]
        tiles = whole.reshape(M, C, height // n, n, width // n, n).swapaxes(3, 4)
        return tiles.reshape(M, C, height // n, width // n, n * n)


Layer = Linear | Conv2d | Pool
