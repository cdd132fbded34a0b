"""The non-spiking network of the same size: rectified linear units instead of neurons, and no time.

`build_ann` takes the architecture strings of `build_network` and builds the same layers: weights of the same shapes and
initial values (the same numbers after the same ``torch.manual_seed``), the same pooling and dropout. Hidden layers are
rectified, ``max(0, W x)``; the last layer is linear and returns the logits of a softmax.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from tssl_triton.encoding import StaticInput

from .network import Padding, Pool, build_network
from .pooling import SpikePool2d, TimeSharedDropout
from .sequential import SpikingSequential
from .weighted import SpikingConv2d, SpikingLinear

_Product = TypeVar("_Product", nn.Conv2d, nn.Linear)


class ANN(nn.Sequential):
    """A network of rectified units from images ``(B, *in_shape)`` to logits ``(B, classes)``.

    It also takes the input of a spiking network, so that both train with the same code: the image of a `StaticInput`,
    and the mean over time of a sequence ``(T, B, *in_shape)``, which for spike trains is each input's firing rate.

    Args:
        layers: ordinary modules of PyTorch, and `Pool2d`.
        in_shape: shape of one image, without batch.

    Raises:
        ValueError: for an input of another shape.
    """

    def __init__(self, layers: Sequence[nn.Module], in_shape: Sequence[int]) -> None:
        super().__init__(*layers)
        self.in_shape = tuple(in_shape)

    def forward(self, x: Tensor | StaticInput) -> Tensor:
        """Logits ``(B, classes)``."""
        logits: Tensor = super().forward(self.images(x))
        return logits

    def images(self, x: Tensor | StaticInput) -> Tensor:
        """The images ``(B, *in_shape)`` that represent an input ``x`` without its time."""
        values = x.values if isinstance(x, StaticInput) else x
        if tuple(values.shape[1:]) == self.in_shape:
            return values
        if isinstance(x, StaticInput) or tuple(values.shape[2:]) != self.in_shape:
            raise ValueError(
                f"x must be images (B, *{self.in_shape}) or a sequence (T, B, *{self.in_shape}), "
                f"got shape {tuple(values.shape)}"
            )
        return values.mean(0)


class Pool2d(nn.Module):
    """Pooling of images ``(B, C, H, W)`` as `SpikePool2d` pools spikes; its arguments are the same."""

    def __init__(self, kernel_size: tuple[int, int], kind: str = "sum", scale: float = 1.1) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.kind = kind
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H // height, W // width)``."""
        if self.kind == "max":
            return F.max_pool2d(x, self.kernel_size)
        mean = F.avg_pool2d(x, self.kernel_size)
        return mean if self.kind == "average" else mean * (math.prod(self.kernel_size) * self.scale)

    def extra_repr(self) -> str:
        return f"{self.kernel_size}, kind={self.kind!r}" + (f", scale={self.scale}" if self.kind == "sum" else "")


def build_ann(
    architecture: str,
    in_shape: Sequence[int],
    classes: int,
    *,
    padding: Padding = 0,
    pool: Pool = "sum",
    dropout: float = 0.0,
    weight_scale: float = 1.0,
    conv_weight_scale: float = 1.0,
) -> ANN:
    """Build the ANN of an architecture string; arguments and errors are those of `build_network`."""
    spiking = build_network(
        architecture,
        in_shape,
        classes,
        padding=padding,
        pool=pool,
        dropout=dropout,
        weight_scale=weight_scale,
        conv_weight_scale=conv_weight_scale,
    )
    return ANN(_rectified(spiking), in_shape)


def _rectified(spiking: SpikingSequential) -> list[nn.Module]:
    """The layers of a spiking network with rectifiers in place of its neurons, the last layer linear.

    They take over the parameters themselves, so that both networks would begin at the same point.
    """
    layers: list[nn.Module] = []
    for layer in spiking:
        if isinstance(layer, SpikingConv2d):
            layers += [_convolution(layer), nn.ReLU()]
        elif isinstance(layer, SpikingLinear):
            layers += [nn.Flatten(), _linear(layer), nn.ReLU()]
        elif isinstance(layer, SpikePool2d):
            layers.append(Pool2d(layer.kernel_size, layer.kind, layer.scale))
        elif isinstance(layer, TimeSharedDropout):
            layers.append(nn.Dropout(layer.p))
        else:
            raise TypeError(f"a layer of the network has no counterpart without spikes: {type(layer).__name__}")
    return layers[:-1]


def _convolution(layer: SpikingConv2d) -> nn.Conv2d:
    """The convolution of a spiking layer, with the layer's own parameters."""
    sizes = layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding
    return _with_parameters(nn.utils.skip_init(nn.Conv2d, *sizes, bias=layer.bias is not None), layer)


def _linear(layer: SpikingLinear) -> nn.Linear:
    """The product of a spiking layer, with the layer's own parameters."""
    sizes = layer.in_features, layer.out_features
    return _with_parameters(nn.utils.skip_init(nn.Linear, *sizes, bias=layer.bias is not None), layer)


def _with_parameters(module: _Product, layer: SpikingConv2d | SpikingLinear) -> _Product:
    module.weight = layer.weight
    if layer.bias is not None:
        module.bias = layer.bias
    return module
