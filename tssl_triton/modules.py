"""Spiking layers as ``nn.Module``: spike trains ``(T, B, *features)`` in, spike trains out.

Any layer takes a tensor or, where the network's input does not change over time, a `StaticInput`. Layers with neurons
take a ``state`` and return the new one with ``return_state=True``, so that a long sequence can be run window by window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import _recompute, _weighted
from ._checks import check_choice, check_count, check_finite, check_flag, check_pair, check_sequence
from .encoding import StaticInput
from .functional import LIFState, lif
from .parameters import LIFParameters

Input = Tensor | StaticInput
Output = Tensor | tuple[Tensor, LIFState]

RULES = ("tssl",)


class LIF(nn.Module):
    """A population of leaky integrate-and-fire neurons: `tssl_triton.functional.lif` as a module.

    Args:
        params: constants of the neurons and of their gradient.
        synapse: whether the input is filtered by the synapse first.
        rule: the learning rule; ``"tssl"``.
    """

    def __init__(self, params: LIFParameters = LIFParameters(), *, synapse: bool = True, rule: str = "tssl") -> None:
        super().__init__()
        if not isinstance(params, LIFParameters):
            raise TypeError(f"params must be LIFParameters, got {type(params).__name__}")
        self.params = params
        self.synapse = synapse
        self.rule = check_choice("rule", rule, RULES)

    def forward(self, x: Input, state: LIFState | None = None, return_state: bool = False) -> Output:
        """Spikes ``(T, B, *)`` of the weighted input ``x (T, B, *)``; with ``return_state`` the state too."""
        return lif(self.weighted(x), self.params, state, self.synapse, return_state)

    def weighted(self, x: Input) -> Input:
        """The input y of the neurons; layers with weights override this."""
        return x

    def extra_repr(self) -> str:
        return repr(self.params)


class _WeightedLIF(LIF):
    """Neurons behind a linear map with weights, which subclasses name and check the input of."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    recompute: bool

    def forward(self, x: Input, state: LIFState | None = None, return_state: bool = False) -> Output:
        """Spikes of the layer for ``x (T, B, *)`` or a `StaticInput`; with ``return_state`` the state too."""
        values, steps = (x.values[None], x.steps) if isinstance(x, StaticInput) else (check_sequence("x", x), len(x))
        tensors = values, self.weight, self.bias
        learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
        if not (self.recompute and learns):
            return super().forward(x, state, return_state)
        layer = _recompute.Layer(self._map(), steps, self.synapse, self.params)
        spikes, after = _recompute.run(layer, self._checked(values), self.weight, self.bias, state, return_state)
        return spikes if after is None else (spikes, after)

    def weighted(self, x: Input) -> Input:
        """``W x (+ bias)``, ``(T, B, *)``."""
        return _each_step(x, self._product)

    def _product(self, x: Tensor) -> Tensor:
        return _weighted.weighted(self._map(), self._checked(x), self.weight, self.bias)

    def _map(self) -> _weighted.Map:
        raise NotImplementedError

    def _checked(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class SpikingLinear(_WeightedLIF):
    """Fully connected spiking layer: ``y[t] = W s_in[t] (+ bias)``, then synapse and neurons.

    Args:
        in_features: features of the input; all axes after batch are flattened.
        out_features: number of neurons.
        params: constants of the neurons and of their gradient.
        bias: whether to add a learnable constant to y at every step.
        weight_scale: factor on the initial weights, which are Kaiming-normal.
        rule: the learning rule; ``"tssl"``.
        recompute: whether to work y out again in backward instead of keeping it: 1/8 byte per neuron-step in place of
            4, the same gradients, one more product with the weights.

    For backward it keeps y, unless it recomputes, its output spikes packed, and its input: packed where that is a spike
    train of this package.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        params: LIFParameters = LIFParameters(),
        *,
        bias: bool = False,
        weight_scale: float = 1.0,
        rule: str = "tssl",
        recompute: bool = False,
    ) -> None:
        super().__init__(params, rule=rule)
        self.recompute = check_flag("recompute", recompute)
        self.in_features = check_count("in_features", in_features)
        self.out_features = check_count("out_features", out_features)
        self.weight = _initial_weight((out_features, in_features), weight_scale)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def _map(self) -> _weighted.Map:
        return _weighted.Linear()

    def _checked(self, x: Tensor) -> Tensor:
        features = math.prod(x.shape[2:])
        if x.dim() < 3 or features != self.in_features:
            raise ValueError(
                f"x must be (T, B, *) with {self.in_features} features in all, got {features} in shape {tuple(x.shape)}"
            )
        return check_sequence("x", x)

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
        rule: the learning rule; ``"tssl"``.
        recompute: whether to work y out again in backward instead of keeping it: 1/8 byte per neuron-step in place of
            4, the same gradients, one more product with the weights.

    A channels_last convolution output is consumed as it is, and the spikes have its memory order.
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
        rule: str = "tssl",
        recompute: bool = False,
    ) -> None:
        super().__init__(params, rule=rule)
        self.recompute = check_flag("recompute", recompute)
        self.in_channels = check_count("in_channels", in_channels)
        self.out_channels = check_count("out_channels", out_channels)
        self.kernel_size = check_pair("kernel_size", kernel_size, 1)
        self.stride = check_pair("stride", stride, 1)
        self.padding = check_pair("padding", padding, 0)
        self.weight = _initial_weight((out_channels, in_channels, *self.kernel_size), weight_scale)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def _map(self) -> _weighted.Map:
        return _weighted.Conv2d(self.stride, self.padding)

    def _checked(self, x: Tensor) -> Tensor:
        if x.dim() != 5 or x.shape[2] != self.in_channels:
            raise ValueError(f"x must be (T, B, {self.in_channels}, H, W), got shape {tuple(x.shape)}")
        return check_sequence("x", x)

    def extra_repr(self) -> str:
        sizes = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        return f"{self.in_channels}, {self.out_channels}, {sizes}, {super().extra_repr()}"


class SpikePool2d(nn.Module):
    """Pooling of spike trains ``(T, B, C, H, W)`` over non-overlapping windows.

    Args:
        kernel_size: height and width of a window, one integer for both.
        kind: ``"sum"`` over the window times ``scale`` (the released program's choice), ``"average"`` or ``"max"``.
        scale: factor of ``kind="sum"``; 1.1 in the released program.
    """

    def __init__(self, kernel_size: int | tuple[int, int], kind: str = "sum", scale: float = 1.1) -> None:
        super().__init__()
        self.kernel_size = check_pair("kernel_size", kernel_size, 1)
        self.kind = check_choice("kind", kind, ("sum", "average", "max"))
        self.scale = check_finite("scale", scale)

    def forward(self, x: Input) -> Input:
        return _each_step(x, self._pool)

    def _pool(self, x: Tensor) -> Tensor:
        check_sequence("x", x)
        height, width = self.kernel_size
        if x.dim() != 5 or x.shape[3] < height or x.shape[4] < width:
            raise ValueError(
                f"x must be (T, B, C, H, W) with H >= {height} and W >= {width}, got shape {tuple(x.shape)}"
            )
        if self.kind == "max":
            return _weighted.max_pool2d(x, self.kernel_size)
        scale = self.scale if self.kind == "sum" else 1.0 / (height * width)
        return _weighted.sum_pool2d(x, self.kernel_size, scale)

    def extra_repr(self) -> str:
        return f"{self.kernel_size}, kind={self.kind!r}" + (f", scale={self.scale}" if self.kind == "sum" else "")


class TimeSharedDropout(nn.Module):
    """Dropout with one mask per sample, shared by all time steps: a dropped neuron is silent for the whole run.

    Args:
        p: probability of dropping a neuron, 0 <= p < 1; the others are scaled by 1/(1 - p) in training.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if isinstance(p, bool) or not isinstance(p, (int, float)):
            raise TypeError(f"p must be a number with 0 <= p < 1, got {p!r}")
        if not 0 <= p < 1:
            raise ValueError(f"p must be a number with 0 <= p < 1, got {p!r}")
        self.p = float(p)

    def forward(self, x: Input) -> Input:
        return _each_step(x, self._drop)

    def _drop(self, x: Tensor) -> Tensor:
        check_sequence("x", x)
        if not self.training or self.p == 0:
            return x
        return _weighted.scaled_by(x, F.dropout(torch.ones_like(x[0]), self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class SpikingSequential(nn.Sequential):
    """Layers one after the other.

    Called with ``return_state=True`` it returns the spikes and a list with one state per layer (None for layers
    without neurons), which the next window is called with.
    """

    def forward(
        self, x: Input, state: Sequence[LIFState | None] | None = None, return_state: bool = False
    ) -> Input | tuple[Input, list[LIFState | None]]:
        if state is not None and len(state) != len(self):
            raise ValueError(f"state must hold one entry per layer, {len(self)}, got {len(state)}")
        new_state: list[LIFState | None] = []
        for k, layer in enumerate(self):
            if not isinstance(layer, (LIF, SpikingSequential)):
                x = layer(x)
                new_state.append(None)
            elif return_state:
                x, after = layer(x, None if state is None else state[k], return_state=True)
                new_state.append(after)
            else:
                x = layer(x, None if state is None else state[k])
        return (x, new_state) if return_state else x


def _each_step(x: Input, function: Callable[[Tensor], Tensor]) -> Input:
    """``function`` of ``x (T, B, *)``, worked out once where all steps are the same."""
    if isinstance(x, StaticInput):
        return StaticInput(function(x.values[None])[0], x.steps)
    return function(check_sequence("x", x))


def _initial_weight(shape: tuple[int, ...], scale: float) -> nn.Parameter:
    weight = torch.empty(shape)
    nn.init.kaiming_normal_(weight)
    return nn.Parameter(weight.mul_(check_finite("weight_scale", scale)))
