"""Spiking layers as ``nn.Module``: spike trains ``(T, B, *features)`` in, spike trains out.

Any layer takes a tensor or, where the network's input does not change over time, a `StaticInput`. Layers with neurons
take a ``state`` and return the new one with ``return_state=True``, so that a long sequence can be run window by window.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from tssl_triton._checks import (
    check_choice,
    check_count,
    check_features,
    check_finite,
    check_flag,
    check_images,
    check_pair,
    check_same_dtype,
    check_sequence,
)
from tssl_triton.cpu.sum_pooling import SumPool
from tssl_triton.encoding import StaticInput
from tssl_triton.functional import LIFConstants, LIFState, lif
from tssl_triton.operators.packed_spikes import PackedSpikes, known_bits
from tssl_triton.operators.records import recall
from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import DEFAULT, Rule, checked_rule

from . import chain as _chain
from . import fused
from . import products as _weighted
from .composed import composed
from .learnable import learnable
from .prepared import Neurons, on_cpu

Input = Tensor | StaticInput | PackedSpikes
Output = Tensor | PackedSpikes | tuple[Tensor | PackedSpikes, LIFState]

FUSED = ("auto", "always", "never")


class LIF(nn.Module):
    """A population of leaky integrate-and-fire neurons: `tssl_triton.functional.lif` as a module.

    Args:
        params: constants of the neurons and of their gradient.
        synapse: whether the input is filtered by the synapse first.
        rule: the learning rule: ``"tssl"``, ``"stbp"``, ``"slayer"``, or one of `tssl_triton.rules`.
        learn: constants that are parameters, of ``"tau_mem"``, ``"tau_syn"`` and ``"threshold"``; ``params`` holds
            their initial values, see `LearnableConstants`.
        per: whether there is one value of each per ``"layer"`` or per ``"neuron"``.
        shape: the neurons' features, which ``per="neuron"`` needs; it may broadcast, as ``(C, 1, 1)`` does.
    """

    def __init__(
        self,
        params: LIFParameters = LIFParameters(),
        *,
        synapse: bool = True,
        rule: Rule | str = "tssl",
        learn: Sequence[str] = (),
        per: str = "layer",
        shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(params, LIFParameters):
            raise TypeError(f"params must be LIFParameters, got {type(params).__name__}")
        self.params = params
        self.synapse = check_flag("synapse", synapse)
        self.rule = checked_rule(rule)
        self.constants = learnable(params, learn, per, shape)
        if not synapse and "tau_syn" in learn:
            raise ValueError(f"learn must leave out 'tau_syn' with synapse=False, got {learn!r}")

    def forward(self, x: Input, state: LIFState | None = None, return_state: bool = False) -> Output:
        """Spikes ``(T, B, *)`` of the weighted input ``x (T, B, *)``; with ``return_state`` the state too."""
        y = self.weighted(x)
        y = y.dense() if isinstance(y, PackedSpikes) else y
        return lif(y, self.params, state, self.synapse, return_state, self.rule, self._learnt())

    def _learnt(self) -> LIFConstants | None:
        """The learnt constants as they are now."""
        return None if self.constants is None else self.constants()

    def weighted(self, x: Input) -> Input:
        """The input y of the neurons; layers with weights override this."""
        return x

    def extra_repr(self) -> str:
        return repr(self.params) if self.rule == DEFAULT else f"{self.params!r}, rule={self.rule!r}"


class _WeightedLIF(LIF):
    """Neurons behind a linear map with weights, which subclasses name and check the input of."""

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

    def forward(
        self,
        x: Input,
        state: LIFState | None = None,
        return_state: bool = False,
        into: _WeightedLIF | None = None,
    ) -> Output:
        """Spikes of the layer for ``x (T, B, *)``, a `StaticInput` or `PackedSpikes`; with ``return_state`` its state.

        They come as a tensor, or, where this layer is fused and the layer they go ``into`` will be, as `PackedSpikes`.
        """
        spikes = known_bits(x) if isinstance(x, Tensor) else x if isinstance(x, PackedSpikes) else None
        function, weight, bias, params = self._map(), self.weight, self.bias, self.params
        result: Tensor | PackedSpikes
        if spikes is not None and self._fuses(spikes):
            self._check_shape(spikes.shape)
            shape = function.shape(spikes.shape, weight.shape)
            dense = into is None or not into._would_fuse(shape, spikes.device)
            result, after = fused.run(
                spikes, function, weight, bias, params, state,
                recompute=self.recompute, carry=return_state, dense=dense, rule=self.rule,
            )  # fmt: skip
        else:
            values = x.dense() if isinstance(x, PackedSpikes) else x
            self._checked(values.values[None] if isinstance(values, StaticInput) else values)
            result, after = composed(
                values, function, weight, bias, params, state,
                self.recompute, return_state, self.rule, self._learnt(),
            )  # fmt: skip
            if into is not None and into._wants_bits(result):
                result = PackedSpikes.pack(result)
        return result if after is None else (result, after)

    def weighted(self, x: Input) -> Input:
        """``W x (+ bias)``, ``(T, B, *)``."""
        return each_step(x, self._product)

    def _product(self, x: Tensor) -> Tensor:
        return _weighted.weighted(self._map(), self._checked(x), self.weight, self.bias)

    def _checked(self, x: Tensor) -> Tensor:
        self._check_shape(check_sequence("x", x).shape)
        check_same_dtype("x", x, self.weight)
        return x

    def _fuses(self, spikes: PackedSpikes) -> bool:
        """Whether this layer runs as one kernel on these spikes."""
        matching = spikes.dtype == self.weight.dtype or fused.product_dtype(self.weight) != self.weight.dtype
        return matching and self._would_fuse(spikes.shape, spikes.device)

    def _would_fuse(self, shape: Sequence[int], device: torch.device) -> bool:
        """Whether it would on packed spikes of this shape."""
        if self.fused == "never" or self.constants is not None or not fused.can_fuse(device, self.weight):
            return False
        if self.fused == "always":
            return True
        _, batch, neurons, *size = self._map().shape(shape, self.weight.shape)
        inputs = self.weight[0].numel()
        return fused.prefers_fused(
            device.type, fused.product_dtype(self.weight), batch * math.prod(size), neurons, inputs
        )

    def _wants_bits(self, spikes: Tensor) -> bool:
        """Whether this layer would fuse on spikes that come without bits, as they do where nothing is learnt."""
        known = torch.compiler.is_compiling() or known_bits(spikes) is not None
        return not known and self._would_fuse(spikes.shape, spikes.device)

    def _map(self) -> _weighted.Map:
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
        recompute: whether to work y out again in backward instead of keeping it: 1/8 byte per neuron-step in place of
            4, the same gradients, one more product with the weights.
        fused: ``"always"`` runs the layer as one kernel wherever its input is a spike train of this package (pooled or
            dropped-out ones are not, nor are images) and there is such a kernel: on GPUs, in float32 and 16 bits;
            ``"never"`` composes product and neurons; ``"auto"`` lets `tssl_triton.nn.fused.prefers_fused` choose.
        learn: constants of the neurons that are parameters, see `LIF`; such a layer is neither fused nor recomputed.
        per: one value of each per ``"layer"`` or per ``"neuron"``.

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

    def _map(self) -> _weighted.Map:
        return _weighted.LINEAR

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
        recompute: whether to work y out again in backward instead of keeping it: 1/8 byte per neuron-step in place of
            4, the same gradients, one more product with the weights.
        fused: ``"always"`` runs the layer as one kernel wherever its input is a spike train of this package (pooled or
            dropped-out ones are not, nor are images) and there is such a kernel: on GPUs, in float32 and 16 bits;
            ``"never"`` composes product and neurons; ``"auto"`` lets `tssl_triton.nn.fused.prefers_fused` choose.
        learn: constants of the neurons that are parameters, see `LIF`; such a layer is neither fused nor recomputed.
        per: one value of each per ``"layer"`` or per ``"neuron"``, whose neurons are here the output channels.

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

    def _map(self) -> _weighted.Map:
        return _weighted.Conv2d(self.stride, self.padding)

    def _check_shape(self, shape: Sequence[int]) -> None:
        if len(shape) != 5 or shape[2] != self.in_channels:
            raise ValueError(f"x must be (T, B, {self.in_channels}, H, W), got shape {tuple(shape)}")
        if min(self._map().shape(shape, self.weight.shape)[3:]) < 1:
            raise ValueError(
                f"x must hold images that a kernel of {self.kernel_size} fits into with padding {self.padding}, "
                f"got shape {tuple(shape)}"
            )

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
        return each_step(x, self._pool)

    @property
    def sums(self) -> SumPool | None:
        """What is summed, for ``kind="sum"`` and ``"average"``."""
        if self.kind == "max":
            return None
        return SumPool(self.kernel_size, self.scale if self.kind == "sum" else 1.0 / math.prod(self.kernel_size))

    def _pool(self, x: Tensor) -> Tensor:
        check_sequence("x", x)
        pool = self.sums
        return _weighted.max_pool2d(x, self.kernel_size) if pool is None else _weighted.pooled(x, pool)

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
        return each_step(x, self._drop)

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
    without neurons), which the next window is called with. A layer of your own has its state in it, too, where its
    ``forward`` takes ``state`` and ``return_state`` as those of this package do.

    Raises:
        TypeError, ValueError: for a state that is no list of one entry per layer; and, where states are asked for, for
            a module such as ``nn.Sequential`` that holds neurons but cannot be told of a state.
    """

    def forward(
        self, x: Input, state: Sequence[LIFState | None] | None = None, return_state: bool = False
    ) -> Input | tuple[Input, list[LIFState | None]]:
        if state is not None and not isinstance(state, Sequence):
            raise TypeError(f"state must be a sequence of one entry per layer, {len(self)}, got {type(state).__name__}")
        if state is not None and len(state) != len(self):
            raise ValueError(f"state must hold one entry per layer, {len(self)}, got {len(state)}")
        new_state: list[LIFState | None] = []
        layers = list(self)
        while layers:
            place = len(new_state)
            chain = _chained(layers, x)
            if chain:
                x, after = _run_chain(chain, x, None if state is None else state[place:], return_state)
            else:
                into = layers[1] if len(layers) > 1 and _hands_on(*layers[:2]) else None
                x, own = _run_layer(place, layers[0], x, None if state is None else state[place], return_state, into)
                after = [own]
            new_state += after
            del layers[: len(after)]
        return (x, new_state) if return_state else x


def _run_layer(
    place: int, layer: nn.Module, x: Input, state: LIFState | None, carry: bool, into: nn.Module | None
) -> tuple[Input, LIFState | None]:
    """What comes out of a layer, which may know the one that it goes ``into``, and its state, if ``carry``."""
    options = {} if into is None else {"into": into}
    asked = carry or state is not None
    if not isinstance(layer, (LIF, SpikingSequential)) and not (asked and _takes_state(place, layer)):
        return layer(x), None
    if carry:
        return layer(x, state, return_state=True, **options)
    return layer(x, state, **options), None


class _Part(NamedTuple):
    """A layer of a chain, what pools its spikes, with what probability neurons are dropped, and modules in all."""

    layer: _WeightedLIF
    pool: SumPool | None = None
    drop: float = 0.0
    modules: int = 1


def _chained(layers: Sequence[nn.Module], x: Input) -> list[_Part]:
    """The first of ``layers`` that can run as one node: those with weights, each one's pooling, and its dropout."""
    found: list[_Part] = []
    values = x.values if isinstance(x, StaticInput) else x.words if isinstance(x, PackedSpikes) else x
    if not isinstance(values, Tensor) or not on_cpu(values.device) or not values.numel():
        return found  # who is called by itself says what is wrong with x
    if _has_any_global_hook():
        return found
    for layer in layers:
        if _hooked(layer):
            break
        if isinstance(layer, _WeightedLIF) and _is_plain(layer) and layer.constants is None:
            found.append(_Part(layer))
        elif type(layer) is SpikePool2d and layer.kind != "max" and found and found[-1].modules == 1:
            found[-1] = found[-1]._replace(pool=layer.sums, modules=2)
        elif type(layer) is TimeSharedDropout and found and not found[-1].drop:
            drop = layer.p if layer.training else 0.0
            found[-1] = found[-1]._replace(drop=drop, modules=found[-1].modules + 1)
        else:
            break
    return found


def _run_chain(
    parts: Sequence[_Part], x: Input, states: Sequence[LIFState | None] | None, carry: bool
) -> tuple[Tensor, list[LIFState | None]]:
    """What comes out of such layers, and a state for each module: None unless it has neurons, and unless ``carry``."""
    shape: Sequence[int]
    if isinstance(x, StaticInput):
        shape, steps, values = (1, *x.values.shape), x.steps, x.values
        # A fully connected layer takes features in one axis, where they are brought in the same call.
        linear = isinstance(parts[0].layer, SpikingLinear)
        values = values.reshape(1, shape[1], -1) if linear else values.unsqueeze(0)
    else:
        values = x.dense() if isinstance(x, PackedSpikes) else x
        shape, steps = values.shape, values.shape[0]
    weights: list[Tensor] = []
    parameters: list[Tensor | None] = []
    given: list[LIFState | None] = []
    # All that the chain depends on. What is told by its identity the chain itself holds, so that no other can have it.
    key: list[object] = [steps, shape, values.shape, values.dtype, values.device]
    place = 0
    for layer, pool, drop, modules in parts:
        weight = layer.weight
        weights.append(weight)
        key += layer._map(), id(layer.params), id(layer.rule), layer.recompute, pool, drop
        key += weight.shape, weight.dtype, weight.device
        parameters += weight, layer.bias
        given.append(None if states is None else states[place])
        place += modules
    chain = _chains.get(tuple(key)) or _new_chain(tuple(key), parts, values, shape, steps)
    for each in weights:
        check_same_dtype("x", values, each)
    packed = None if isinstance(x, StaticInput) else recall(values)
    spikes, after = _chain.run(chain, values, packed, parameters, given, carry)
    found: list[LIFState | None] = []
    for part, state in zip(parts, after, strict=True):
        found += [state, *[None] * (part.modules - 1)]
    return spikes, found


_chains: dict[tuple[object, ...], _chain.Chain] = {}

MOST_CHAINS = 256
"""That are remembered: as many as there are networks in use, times sizes of their input."""


def _new_chain(
    key: tuple[object, ...], parts: Sequence[_Part], values: Tensor, shape: Sequence[int], steps: int
) -> _chain.Chain:
    """The chain of these layers for ``values`` that came in a shape; remembered under ``key``.

    Raises:
        TypeError, ValueError: for values that are no sequence, and whose shape some layer's weights or pooling do not
            fit.
    """
    check_sequence("x", values)
    links: list[_chain.Link] = []
    size = shape
    for layer, pool, drop, _ in parts:
        layer._check_shape(size)
        link = _chain.Link(layer._map(), Neurons(steps, layer.params, layer.rule, pool), layer.recompute, drop)
        if pool is not None:
            check_images("x", (steps, *link.function.shape(size, layer.weight.shape)[1:]), pool.size)
        links.append(link)
        size = link.shape(size, layer.weight.shape)
    if len(_chains) >= MOST_CHAINS:
        _chains.clear()
    chain = _chains[key] = _chain.Chain(links, values.shape, [_chain.sized(part.layer.weight) for part in parts])
    return chain


def _hands_on(layer: nn.Module, following: nn.Module) -> bool:
    """Whether a layer may know what its spikes go into: packed bits then leave it in their place.

    A hook on either expects to see the spikes, and so does a user's subclass with a ``forward`` of its own.
    """
    unseen = not (_has_any_global_hook() or _hooked(layer) or _hooked(following))
    return unseen and _is_plain(layer) and _is_plain(following)


def _takes_state(place: int, layer: nn.Module) -> bool:
    """Whether the ``forward`` of a layer that is none of this package's takes a state and returns one when asked to.

    Raises:
        TypeError: if it does not although there are neurons in it.
    """
    original: nn.Module = getattr(layer, "_orig_mod", layer)  # of what torch.compile has wrapped
    if {"state", "return_state"} <= inspect.signature(type(original).forward).parameters.keys():
        return True
    if any(isinstance(module, LIF) for module in layer.modules()):
        raise TypeError(
            f"layer {place}, {type(layer).__name__}, holds neurons but its forward takes no state and return_state; "
            "put its layers into a SpikingSequential, or run the whole sequence at once, without states"
        )
    return False


def _is_plain(layer: nn.Module) -> bool:
    return isinstance(layer, _WeightedLIF) and type(layer).forward is _WeightedLIF.forward


def _hooked(module: nn.Module) -> bool:
    """Whether someone else's code runs before, after or in place of this module's ``forward``."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(hooks) or "forward" in module.__dict__


def each_step(x: Input, function: Callable[[Tensor], Tensor]) -> Input:
    """``function`` of ``x (T, B, *)``, worked out once where all steps are the same."""
    if isinstance(x, StaticInput):
        return StaticInput(function(x.values[None]).squeeze(0), x.steps)
    return function(check_sequence("x", x.dense() if isinstance(x, PackedSpikes) else x))


def initial_weight(shape: tuple[int, ...], scale: float, name: str = "weight_scale") -> nn.Parameter:
    """Kaiming-normal weights times ``scale``, the argument ``name`` of a layer."""
    weight = torch.empty(shape)
    nn.init.kaiming_normal_(weight)
    return nn.Parameter(weight.mul_(check_finite(name, scale)))
