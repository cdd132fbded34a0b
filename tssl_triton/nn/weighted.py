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

import torch
from torch import Tensor, nn

from tssl_triton._checks import (
    check_choice,
    check_count,
    check_features,
    check_finite,
    check_flag,
    check_pair,
    check_same_dtype,
    check_sequence,
)
from tssl_triton.encoding import StaticInput
from tssl_triton.functional import LIFState
from tssl_triton.operators import Neuron, PackedSpikes, takes_spikes
from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import Rule

from . import fused
from .layer_node import Layer, product_dtype, run_layer
from .neurons import LIF, Input, Output, each_step
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
        spikes = spikes.dense() if isinstance(spikes, PackedSpikes) else spikes
        return spikes if after is None else (spikes, after)

    def _run(
        self, x: Input, state: LIFState | None, carry: bool, following: nn.Module | None = None
    ) -> tuple[Tensor | PackedSpikes, LIFState | None]:
        """Spikes and, with ``carry``, the state. The spikes come with their bits where these are at hand.

        Where the ``following`` layer takes bits alone, the spikes may come without the dense tensor.
        """
        product, weight, bias = self._product(), self.weight, self.bias
        values = x.values[None] if isinstance(x, StaticInput) else x
        link = check_sequence("x", values.link if isinstance(values, PackedSpikes) else values)
        self._check_shape(link.shape)
        steps = x.steps if isinstance(x, StaticInput) else link.shape[0]
        shape = (steps, *product.shape(link.shape, weight.shape)[1:])
        bits_out = isinstance(following, _WeightedLIF) and following._takes_bits(shape)
        if isinstance(values, PackedSpikes) and self._fuses(values):
            return fused.run(
                values, product, weight, bias, self.params, state,
                recompute=self.recompute, carry=carry, dense=not bits_out, rule=self.rule,
            )  # fmt: skip
        check_same_dtype("x", link, weight)
        layer = Layer(product, Neuron(self.params, self.rule), steps, self.recompute)
        return run_layer(layer, values, weight, bias, self._learnt(), state, carry, bits_out)

    def weighted(self, x: Input) -> Input:
        """``W x (+ bias)``, ``(T, B, *)``."""
        return each_step(x, self._weighted)

    def _weighted(self, x: Tensor) -> Tensor:
        self._check_shape(x.shape)
        check_same_dtype("x", x, self.weight)
        return self._product()(x, self.weight, self.bias)

    def _fuses(self, spikes: PackedSpikes) -> bool:
        """Whether this layer runs as one kernel on these spikes."""
        matching = spikes.dtype == self.weight.dtype or product_dtype(self.weight) != self.weight.dtype
        return matching and not spikes.applied and self._prefers_fused(spikes.shape)

    def _prefers_fused(self, shape: Sequence[int]) -> bool:
        """Whether it would run as one kernel on packed spikes of this shape."""
        if self.fused == "never" or self.constants is not None or not fused.can_fuse(self.weight):
            return False
        if self.fused == "always":
            return True
        _, batch, neurons, *size = self._product().shape(shape, self.weight.shape)
        inputs = self.weight[0].numel()
        dtype = product_dtype(self.weight)
        return fused.prefers_fused(self.weight.device.type, dtype, batch * math.prod(size), neurons, inputs)

    def _takes_bits(self, shape: Sequence[int]) -> bool:
        """Whether packed spikes of this shape may be all that the layer needs as input."""
        if isinstance(self._product(), Linear) and takes_spikes(shape[0], shape[1], self.weight):
            return True
        return self._prefers_fused(shape)

    def _product(self) -> Product:
        raise NotImplementedError

    def _check_shape(self, shape: Sequence[int]) -> None:
        """Raise ValueError for an input of a shape that the weights do not fit."""
        raise NotImplementedError


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

    def _check_shape(self, shape: Sequence[int]) -> None:
        check_features("x", shape, self.in_features)

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

    def _check_shape(self, shape: Sequence[int]) -> None:
        if len(shape) != 5 or shape[2] != self.in_channels:
            raise ValueError(f"x must be (T, B, {self.in_channels}, H, W), got shape {tuple(shape)}")
        if min(self._product().shape(shape, self.weight.shape)[3:]) < 1:
            raise ValueError(
                f"x must hold images that a kernel of {self.kernel_size} fits into with padding {self.padding}, "
                f"got shape {tuple(shape)}"
            )

    def extra_repr(self) -> str:
        sizes = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        return f"{self.in_channels}, {self.out_channels}, {sizes}, {super().extra_repr()}"


def initial_weight(shape: tuple[int, ...], scale: float, name: str = "weight_scale") -> nn.Parameter:
    """Kaiming-normal weights times ``scale``, which is the argument ``name`` of a layer."""
    weight = torch.empty(shape)
    nn.init.kaiming_normal_(weight)
    return nn.Parameter(weight.mul_(check_finite(name, scale)))
