"""Weighted spiking layers, fully connected and convolutional: spike trains ``(T, B, *features)`` in, spike trains out.

A weighted layer runs in one of three ways:

=========================================  ================================  =========================
where                                      way                               nodes on autograd's graph
=========================================  ================================  =========================
a fused kernel is there and wanted         `tssl_triton.nn.fused`            two, one kernel forward
a compiler, mode or transform is tracing   product, then operator of `lif`   two
elsewhere, on every device                 one node of `nn.layer_node`       one
=========================================  ================================  =========================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tssl_triton._checks import (
    check_choice,
    check_count,
    check_finite,
    check_flag,
    check_input,
    check_pair,
    check_same_dtype,
)
from tssl_triton.encoding import StaticInput
from tssl_triton.functional import LIFState
from tssl_triton.operators import Neuron, PackedSpikes, SumPool, has_fused_kernel, takes_spikes
from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import Rule

from . import fused
from .layer_node import Layer, product_dtype, run_layer
from .neurons import LIF, Input, Output, each_step
from .pooling import SpikePool2d
from .products import LINEAR, Conv2d, Linear, Product

FUSED = ("auto", "always", "never")


class _WeightedLIF(LIF):
    """Neurons behind a product with weights. Subclasses hold the weights and check the shape of the input."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    recompute: bool
    fused: str

    def __init__(
        self,
        params: LIFParameters,
        rule: Rule | str,
        recompute: bool,
        fused: str,
        learn: Sequence[str],
        per: str,
        shape: Sequence[int],
    ) -> None:
        super().__init__(params, rule=rule, learn=learn, per=per, shape=shape)
        self.recompute = check_flag("recompute", recompute)
        self.fused = check_choice("fused", fused, FUSED)
        if self.constants is not None and (recompute or fused == "always"):
            raise ValueError(
                f"learn must be empty with recompute=True or fused='always', whose kernels have their constants "
                f"compiled in, got learn={learn!r}, recompute={recompute}, fused={fused!r}"
            )

    def forward(self, x: Input, state: LIFState | None = None, return_state: bool = False) -> Output:
        """Spikes for ``x (T, B, *)``, a `StaticInput` or `PackedSpikes`; with ``return_state`` the state too."""
        spikes, after = self._run(x, state, return_state)
        assert isinstance(spikes, Tensor)
        return spikes if after is None else (spikes, after)

    def _run(
        self, x: Input, state: LIFState | None, carry: bool, following: nn.Module | None = None
    ) -> tuple[Tensor | PackedSpikes, LIFState | None]:
        """Spikes and, with ``carry``, the state.

        For a ``following`` layer the spikes come with their bits, where there are bits, and without the dense tensor
        if that layer needs none; without such a layer they come as a tensor.
        """
        values: Tensor | PackedSpikes
        values, steps = (x.values[None], x.steps) if isinstance(x, StaticInput) else (x, None)
        link = values.link if isinstance(values, PackedSpikes) else values
        if not isinstance(link, Tensor):
            raise TypeError(f"x must be a tensor (T, B, *), got {type(x).__name__}")
        next_own = following._settings() if isinstance(following, (_WeightedLIF, SpikePool2d)) else None
        own = self._settings()
        packed = isinstance(values, PackedSpikes) and values.recipe.functions == ()
        # torch.compile warns of caches that it cannot trace.
        planned = _planned if torch.compiler.is_compiling() else _planned_once
        layer, runs_fused, bits_out = planned(own, next_own, steps, link.shape, link.dtype, link.device, packed)
        weight, bias = self.weight, self.bias
        if runs_fused and isinstance(values, PackedSpikes):
            spikes, after = fused.run(layer, values, weight, bias, state, carry, dense=not bits_out)
            return (spikes.link if following is None else spikes), after
        learnt = None if self.constants is None else self.constants()
        packed_out, private = following is not None, next_own is not None
        return run_layer(layer, values, weight, bias, learnt, state, carry, packed_out, bits_out, private)

    def _settings(self) -> LayerSettings:
        """The layer as it is now, without the numbers of its weights."""
        weight, autocast = self.weight, None
        device = weight.device
        # `autocast_dtype` without the call, which would add a file to the path of every forward.
        if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
            autocast = torch.get_autocast_dtype(device.type)
        choice = "never" if self.constants is not None else self.fused
        neuron = Neuron(self.params, self.rule)
        return LayerSettings(
            self._product(), neuron, self.recompute, choice, weight.shape, weight.dtype, device, autocast
        )

    def weighted(self, x: Input) -> Input:
        """``W x (+ bias)``, ``(T, B, *)``."""
        return each_step(x, self._weighted)

    def _weighted(self, x: Tensor) -> Tensor:
        self._product().check(x.shape, self.weight.shape)
        check_same_dtype("x", x, self.weight)
        return self._product()(x, self.weight, self.bias)

    def _product(self) -> Product:
        raise NotImplementedError


class LayerSettings(NamedTuple):
    """A weighted layer without the numbers of its weights.

    Args:
        product, neuron, recompute: as of `Layer`.
        fused: as of `SpikingLinear`; "never" with learnt constants.
        shape, dtype, device: of the weights.
        autocast: the type that autocast casts to; None where it is off.
    """

    product: Product
    neuron: Neuron
    recompute: bool
    fused: str
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    autocast: torch.dtype | None

    @property
    def product_dtype(self) -> torch.dtype:
        """Type of the product."""
        return product_dtype(self.dtype, self.autocast)

    def prefers_fused(self, shape: Sequence[int]) -> bool:
        """Whether the layer runs as one kernel on packed spikes of this shape."""
        fits = len(shape) > len(self.shape)  # images for a convolution
        if self.fused == "never" or not fits or not has_fused_kernel(self.device, self.product_dtype):
            return False
        if self.fused == "always":
            return True
        _, batch, neurons, *size = self.product.shape(shape, self.shape)
        inputs = math.prod(self.shape[1:])
        return fused.prefers_fused(self.device.type, self.product_dtype, batch * math.prod(size), neurons, inputs)

    def takes_bits(self, shape: Sequence[int], device: torch.device) -> bool:
        """Whether packed spikes of this shape may be all that the layer needs as input."""
        linear = isinstance(self.product, Linear)
        if linear and takes_spikes(shape[0], shape[1], self.shape, self.dtype, device):
            return True
        return self.prefers_fused(shape)


class Plan(NamedTuple):
    """How a layer runs on inputs of one size."""

    layer: Layer
    fused: bool  # whether it runs as one kernel
    bits_out: bool  # whether the following layer takes its spikes as bits


def _planned(
    own: LayerSettings,
    following: LayerSettings | SumPool | None,
    steps: int | None,
    shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
    packed: bool,
) -> Plan:
    """The plan of a layer for an input, ``packed`` or dense, which serves all ``steps`` if these are given.

    It depends on the values of its arguments alone, and so is computed once for each size of a network.

    Raises:
        TypeError, ValueError: for an input that does not fit the weights.
    """
    check_input("x", shape, dtype, device)
    own.product.check(shape, own.shape)
    if dtype != own.dtype and own.autocast is None:
        raise TypeError(f"x must be {own.dtype} as the layer's weight is, got {dtype}; convert one of them")
    layer = Layer(own.product, own.neuron, steps or shape[0], own.recompute, own.autocast)
    out = (layer.steps, *own.product.shape(shape, own.shape)[1:])
    return Plan(layer, packed and own.prefers_fused(shape), following is not None and following.takes_bits(out, device))


_planned_once = lru_cache(maxsize=256)(_planned)


class SpikingLinear(_WeightedLIF):
    """Fully connected spiking layer: ``y[t] = W s_in[t] (+ bias)``, then synapse and neurons.

    Args:
        in_features: features of the input; all axes after batch are flattened.
        out_features: number of neurons.
        params: constants of the neurons and of their gradient.
        bias: whether to add a learnable constant to y at every step.
        weight_scale: factor on the initial weights, which are Kaiming-normal.
        rule: the learning rule: ``"tssl"``, ``"stbp"``, ``"slayer"``, or one of `tssl_triton.rules`.
        recompute: whether backward computes y again: 1/8 byte per neuron-step is kept instead of 4, gradients are
            bit-identical, and the layer takes one more product with the weights.
        fused: ``"always"`` runs the layer as one kernel where its input is packed spikes (neither pooled nor dropped
            out) and the device has such a kernel: GPUs, in float32 and 16 bits; ``"never"`` takes product and neurons
            one after the other; ``"auto"`` decides by `tssl_triton.nn.prefers_fused`.
        learn: constants of the neurons that are parameters, see `LIF`; such a layer is neither fused nor recomputed.
        per: one value of each per ``"layer"`` or per ``"neuron"``.

    For backward it keeps y (unless it recomputes), its spikes as bits, and its input: as bits where these are at hand,
    as in a `SpikingSequential` or for `PackedSpikes`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        params: LIFParameters = LIFParameters(),
        *,
        bias: bool = False,
        weight_scale: float = 1.0,
        rule: Rule | str = "tssl",
        recompute: bool = False,
        fused: str = "auto",
        learn: Sequence[str] = (),
        per: str = "layer",
    ) -> None:
        out_features = check_count("out_features", out_features)
        super().__init__(params, rule, recompute, fused, learn, per, (out_features,))
        self.in_features = check_count("in_features", in_features)
        self.out_features = out_features
        self.weight = initial_weight((out_features, in_features), weight_scale)
        self.bias = nn.Parameter(torch.zeros(out_features)) if check_flag("bias", bias) else None

    def _product(self) -> Product:
        return LINEAR

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {super().extra_repr()}"


class SpikingConv2d(_WeightedLIF):
    """Convolutional spiking layer: ``y[t] = W * s_in[t] (+ bias)``, then synapse and neurons.

    Args:
        in_channels: channels C of the input ``(T, B, C, H, W)``.
        out_channels: channels of the output.
        kernel_size: height and width of the kernel, one integer for both.
        params: constants of the neurons and of their gradient.
        stride: steps of the kernel.
        padding: zeros around each image.
        bias: whether to add a learnable constant per channel to y at every step.
        weight_scale: factor on the initial weights, which are Kaiming-normal.
        rule: the learning rule: ``"tssl"``, ``"stbp"``, ``"slayer"``, or one of `tssl_triton.rules`.
        recompute: whether backward computes y again: 1/8 byte per neuron-step is kept instead of 4, gradients are
            bit-identical, and the layer takes one more product with the weights.
        fused: ``"always"`` runs the layer as one kernel where its input is packed spikes (neither pooled nor dropped
            out) and the device has such a kernel: GPUs, in float32 and 16 bits; ``"never"`` takes product and neurons
            one after the other; ``"auto"`` decides by `tssl_triton.nn.prefers_fused`.
        learn: constants of the neurons that are parameters, see `LIF`; such a layer is neither fused nor recomputed.
        per: one value of each per ``"layer"`` or per ``"neuron"``, whose neurons are here the output channels.

    The spikes have the memory format of the convolution's output, channels_last too.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        params: LIFParameters = LIFParameters(),
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        bias: bool = False,
        weight_scale: float = 1.0,
        rule: Rule | str = "tssl",
        recompute: bool = False,
        fused: str = "auto",
        learn: Sequence[str] = (),
        per: str = "layer",
    ) -> None:
        out_channels = check_count("out_channels", out_channels)
        super().__init__(params, rule, recompute, fused, learn, per, (out_channels, 1, 1))
        self.in_channels = check_count("in_channels", in_channels)
        self.out_channels = out_channels
        self.kernel_size = check_pair("kernel_size", kernel_size, 1)
        self.stride = check_pair("stride", stride, 1)
        self.padding = check_pair("padding", padding, 0)
        self.weight = initial_weight((out_channels, in_channels, *self.kernel_size), weight_scale)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if check_flag("bias", bias) else None

    def _product(self) -> Product:
        return Conv2d(self.stride, self.padding)

    def extra_repr(self) -> str:
        sizes = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        return f"{self.in_channels}, {self.out_channels}, {sizes}, {super().extra_repr()}"


def initial_weight(shape: tuple[int, ...], scale: float, name: str = "weight_scale") -> nn.Parameter:
    """Kaiming-normal weights times ``scale``, which is the argument ``name`` of a layer."""
    weight = torch.empty(shape)
    nn.init.kaiming_normal_(weight)
    return nn.Parameter(weight.mul_(check_finite(name, scale)))
