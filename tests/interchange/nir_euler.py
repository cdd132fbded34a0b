"""NIR graphs integrated by forward Euler in NumPy float64, from the equations of NIR's documentation.

Independent of the package that writes and reads the graphs.
"""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


class EulerRun:
    """The spikes of every neuron node of a chain, ``(T, B, *)``, under the node's name.

    Attributes:
        spikes: by name of the node.
        margin: the least distance of any membrane potential from its threshold, relative to the threshold: an
            implementation whose potentials are off by less has the same spikes.
    """

    def __init__(self, graph: nir.NIRGraph, x: Any, dt: float, subtract: bool = False) -> None:
        self.spikes: dict[str, np.ndarray] = {}
        self.margin = np.inf
        self.dt = dt
        self.subtract = subtract
        after = dict(graph.edges)
        (name,) = (name for name, node in graph.nodes.items() if isinstance(node, nir.Input))
        signal = np.asarray(x, dtype=np.float64)
        while name in after:
            name = after[name]
            signal = self._node(name, graph.nodes[name], signal)
        self.output = signal

    def _node(self, name: str, node: Any, x: np.ndarray) -> np.ndarray:
        if isinstance(node, nir.Output):
            return x
        if isinstance(node, nir.Flatten):
            return x.reshape(*x.shape[:2], -1)
        if isinstance(node, nir.Linear):
            return x @ wide(node.weight).T
        if isinstance(node, nir.Affine):
            return x @ wide(node.weight).T + wide(node.bias)
        if isinstance(node, nir.Conv2d):
            windows = cut(x, node.weight.shape[2:], node.stride, node.padding)
            return np.einsum("tbcyxhw,ochw->tboyx", windows, wide(node.weight)) + wide(node.bias)[:, None, None]
        if isinstance(node, nir.SumPool2d):
            return cut(x, node.kernel_size, node.stride, node.padding).sum((-2, -1))
        if isinstance(node, nir.AvgPool2d):
            return cut(x, node.kernel_size, node.stride, node.padding).mean((-2, -1))
        self.spikes[name] = self._fire(node, x)
        return self.spikes[name]

    def _fire(self, node: nir.CubaLIF | nir.LIF, x: np.ndarray) -> np.ndarray:
        v = np.zeros(x.shape[1:]) + wide(node.v_leak)
        current = np.zeros_like(v)
        spikes = np.zeros_like(x)
        for t, arriving in enumerate(x):
            if isinstance(node, nir.CubaLIF):
                current = current + self.dt / wide(node.tau_syn) * (-current + wide(node.w_in) * arriving)
                tau_mem = wide(node.tau_mem)
            else:
                current, tau_mem = arriving, wide(node.tau)
            v = v + self.dt / tau_mem * (wide(node.v_leak) - v + wide(node.r) * current)
            threshold = wide(node.v_threshold)
            self.margin = min(self.margin, np.abs(v / threshold - 1).min())
            spikes[t] = v > threshold
            v = np.where(v > threshold, v - threshold if self.subtract else wide(node.v_reset), v)
        return spikes


def cut(x: np.ndarray, size: Any, stride: Any, padding: Any) -> np.ndarray:
    """The windows of images ``(T, B, C, H, W)``: ``(T, B, C, down, across, h, w)``."""
    (down, across), (above, left) = np.broadcast_to(stride, 2), np.broadcast_to(padding, 2)
    padded = np.pad(x, ((0, 0), (0, 0), (0, 0), (above, above), (left, left)))
    return sliding_window_view(padded, tuple(size), axis=(-2, -1))[:, :, :, ::down, ::across]


def wide(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)
