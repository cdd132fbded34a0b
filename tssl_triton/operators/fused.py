"""Fused layers as operators: weights, synapse and neurons in one Triton kernel.

A CPU without Triton's interpreter has no such kernel: `tssl_triton.nn.fused` composes the layer there, and these
operators raise. All images are (B, C, H, W); a fully connected layer has images of 1x1. Outputs have the neurons of a
pixel side by side in memory (channels_last), as a tile of a program writes them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tssl_triton.kernels.geometry import Geometry
from tssl_triton.kernels.layout import checkpoint_rows, word_count, word_dtype

from . import devices, settings
from .registration import operator

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@operator
def spike_weighted(
    words: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    neuron: str,
    steps: int,
    stride: list[int],
    padding: list[int],
    save: bool,
    emit: bool,
    carry: bool,
) -> Outputs:
    """Weights, synapse and neurons on packed spikes ``(words, B, C, H, W)``.

    Returns ``(T, B, N, H', W')`` spikes, empty unless ``emit``; packed spikes ``(words, B, N, H', W')``; y, shaped as
    the spikes, and checkpoints, empty unless ``save``; the new state ``(3, B, N, H', W')``, empty unless ``carry``.
    """
    geometry = _geometry(words, weight, stride, padding)
    spikes, packed, current, checkpoints, new_state = _outputs(words, weight, steps, stride, padding, save, emit, carry)
    if packed.numel():
        _kernels(words).spike_weighted(
            inputs=words,
            weight=weight,
            bias=bias,
            words=_pixels(packed),
            spikes=_pixels(spikes) if emit else None,
            current=_pixels(current) if save else None,
            checkpoints=_pixels(checkpoints) if save else None,
            state=None if state is None else _pixels(state),
            new_state=_pixels(new_state) if carry else None,
            steps=steps,
            geometry=geometry,
            params=settings.read(neuron).params,
        )
    return spikes, packed, current, checkpoints, new_state


@spike_weighted.register_fake
def _(
    words: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, neuron: str, steps: int, *others: Any
) -> Outputs:
    return _outputs(words, weight, steps, *others)


@operator
def spike_weight_gradient(
    grad_current: Tensor, words: Tensor, weight: Tensor, steps: int, stride: list[int], padding: list[int]
) -> Tensor:
    """dL/dW, like ``weight``, from ``grad_current (T, B, N, H', W')`` and packed input spikes."""
    if not grad_current.numel() or not words.numel():
        return torch.zeros_like(weight)
    geometry = _geometry(words, weight, stride, padding)
    backend = _kernels(words)
    return backend.weight_gradient(_pixels(grad_current), words, weight, steps=steps, geometry=geometry)


@spike_weight_gradient.register_fake
def _(grad_current: Tensor, words: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(weight)


def _kernels(words: Tensor) -> Any:
    if not devices.has_fused_kernel(words.device, torch.float32):
        raise RuntimeError(
            f"the fused operators are Triton kernels and have no implementation for {words.device}; call "
            "tssl_triton.spike_linear or spike_conv2d, which compose the layer there"
        )
    return devices.launchers(words.device)


def _geometry(words: Tensor, weight: Tensor, stride: list[int], padding: list[int]) -> Geometry:
    height, width = words.shape[3:]
    kernel = (weight.shape[2], weight.shape[3])
    return Geometry.of(height, width, kernel, (stride[0], stride[1]), (padding[0], padding[1]))


def _outputs(
    words: Tensor,
    weight: Tensor,
    steps: int,
    stride: list[int],
    padding: list[int],
    save: bool,
    emit: bool,
    carry: bool,
) -> Outputs:
    geometry = _geometry(words, weight, stride, padding)
    shape = (words.shape[1], geometry.out_h, geometry.out_w, weight.shape[0])

    def rows(count: int, dtype: torch.dtype) -> Tensor:
        return words.new_empty((count, *shape), dtype=dtype).permute(0, 1, 4, 2, 3)

    return (
        rows(steps if emit else 0, weight.dtype),
        rows(word_count(steps), word_dtype(steps)),
        rows(steps if save else 0, weight.dtype),
        rows(checkpoint_rows(steps) if save else 0, torch.float32),
        rows(3 if carry else 0, torch.float32),
    )


def _pixels(x: Tensor) -> Tensor:
    """``(rows, B, N, H, W)`` as ``(rows, M, N)``: a view of what these operators allocate, else a copy."""
    return x.permute(0, 1, 3, 4, 2).contiguous().flatten(1, 3)
