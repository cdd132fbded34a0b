"""Fused layers: weights, synapse and neurons in one kernel that reads packed spikes and writes packed spikes.

Between two fused layers there is no float spike tensor, and y is written to memory only for backward, with
``recompute`` not even for that. The layers hand on `PackedSpikes`.

A CPU has no such kernel: there the same functions run the layer's node (`tssl_triton.nn.layer_node`), with the same
numbers. `prefers_fused` decides where a GPU takes the kernel by default.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tssl_triton._checks import check_pair
from tssl_triton.functional import LIFState, stacked
from tssl_triton.kernels.layout import cdiv
from tssl_triton.operators import (
    Neuron,
    PackedSpikes,
    autocast_dtype,
    differentiable,
    first_order,
    fused_weight_gradient,
    ghost,
    has_fused_kernel,
    run_backward,
    set_autocast,
    spike_weighted,
    write_settings,
)
from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import Rule, checked_rule

from .layer_node import Layer, product_dtype, run_layer
from .products import LINEAR, Conv2d, KeptInput, Product

_DEFAULTS = LIFParameters()


def prefers_fused(device: str, dtype: torch.dtype, pixels: int, neurons: int, inputs: int) -> bool:
    """Whether a layer with ``fused="auto"`` runs as one kernel.

    Args:
        device: ``"cuda"`` (ROCm too) or ``"cpu"``.
        dtype: type of the weights in the product.
        pixels: output pixels, batch times height times width; the batch for a fully connected layer.
        neurons: output neurons at each pixel.
        inputs: weights of one neuron: input features, or input channels times kernel area.

    The fused kernel saves memory traffic, but walks time inside a program: it runs one T-th of the product's programs.
    It is therefore taken in 16 bits, where tensor cores compute the product; where there are tiles for most of a large
    device's multiprocessors (128 tiles of 64 x 64); and for 64 to 256 inputs: fewer do not fill a pipeline, and for
    more, unpacking bits (some twelve instructions per neuron-step and 64 inputs) costs more time than the saved bytes.
    In float32 the vendor's product is faster than an exact one in Triton. These bounds follow from the counts of
    `python -m bench static`; no GPU has measured them.
    """
    tiles = cdiv(pixels, 64) * cdiv(neurons, 64)
    sixteen_bits = dtype in (torch.float16, torch.bfloat16)
    return device == "cuda" and sixteen_bits and tiles >= 128 and 64 <= inputs <= 256


def spike_linear(
    spikes: PackedSpikes,
    weight: Tensor,
    bias: Tensor | None = None,
    params: LIFParameters = _DEFAULTS,
    state: LIFState | None = None,
    *,
    recompute: bool = False,
    return_state: bool = False,
    rule: Rule | str = "tssl",
) -> PackedSpikes | tuple[PackedSpikes, LIFState]:
    """A fully connected spiking layer on packed spikes, in one kernel: ``y[t] = W s[t] (+ bias)``, eqs. (3)-(5).

    Args:
        spikes: packed spikes ``(T, B, *)`` with ``in`` features in all.
        weight: ``(out, in)``, float32, float16 or bfloat16 (float64 where the layer is composed), of the spikes' dtype
            unless autocast chooses.
        bias: ``(out,)`` or None.
        params: constants of the neurons and of their gradient.
        state: where a window of a longer run starts from, ``(B, out)`` each; None is a layer at rest.
        recompute: whether to work y out again in backward instead of keeping it.
        return_state: whether to return the state after the last step too.
        rule: the learning rule, as in `tssl_triton.functional.lif`.

    Returns:
        Packed spikes ``(T, B, out)``; with ``return_state`` the pair of them and a `LIFState`.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    _check_layer(spikes, weight, bias, axes=2)
    features = math.prod(spikes.shape[2:])
    if features != weight.shape[1]:
        raise ValueError(
            f"spikes must have the {weight.shape[1]} features of weight's second axis, got {features} in shape "
            f"{tuple(spikes.shape)}"
        )
    return _functional(spikes, LINEAR, weight, bias, params, state, recompute, return_state, rule)


def spike_conv2d(
    spikes: PackedSpikes,
    weight: Tensor,
    bias: Tensor | None = None,
    params: LIFParameters = _DEFAULTS,
    state: LIFState | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    recompute: bool = False,
    return_state: bool = False,
    rule: Rule | str = "tssl",
) -> PackedSpikes | tuple[PackedSpikes, LIFState]:
    """A convolutional spiking layer on packed spikes, in one kernel, by an implicit matrix product.

    Args:
        spikes: packed spikes ``(T, B, C, H, W)``.
        weight: ``(K, C, h, w)``, as in `spike_linear`.
        bias: ``(K,)`` or None.
        params: constants of the neurons and of their gradient.
        state: where a window of a longer run starts from, ``(B, K, H', W')`` each; None is a layer at rest.
        stride: steps of the kernel.
        padding: zeros around each image.
        recompute: whether to work y out again in backward instead of keeping it.
        return_state: whether to return the state after the last step too.
        rule: the learning rule, as in `tssl_triton.functional.lif`.

    Returns:
        Packed spikes ``(T, B, K, H', W')``, channels_last in memory on a GPU; with ``return_state`` the pair of them
        and a `LIFState`.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    _check_layer(spikes, weight, bias, axes=4)
    product = Conv2d(check_pair("stride", stride, 1), check_pair("padding", padding, 0))
    _check_images(spikes, weight, product)
    return _functional(spikes, product, weight, bias, params, state, recompute, return_state, rule)


def run(
    layer: Layer,
    spikes: PackedSpikes,
    weight: Tensor,
    bias: Tensor | None,
    state: LIFState | None,
    carry: bool,
    dense: bool,
) -> tuple[PackedSpikes, LIFState | None]:
    """The layer in one kernel: packed spikes, with the dense ones if ``dense``; with ``carry`` the state too.

    It checks no argument.
    """
    save = differentiable(spikes.link, weight, bias) and not layer.recompute
    dtype = product_dtype(weight.dtype, layer.autocast)
    shape = layer.product.shape(spikes.link.shape, weight.shape)
    inner = FusedLayer(layer.product, layer.steps, layer.neuron, dtype, save, dense, carry)
    start = None if state is None else stacked(state, ghost(shape, spikes.link.new_empty((), dtype=dtype)))
    y = _FusedProduct.apply(spikes.link, spikes.words, weight, bias, inner)
    result, words, after = _FusedNeurons.apply(y, spikes.words, weight, bias, start, inner)
    return PackedSpikes((words,), spikes.recipe, result), LIFState(*after.unbind(0)) if carry else None


class FusedLayer(NamedTuple):
    """A fused layer without its tensors."""

    product: Product
    steps: int
    neuron: Neuron
    dtype: torch.dtype
    save: bool
    dense: bool
    carry: bool

    def strides(self) -> tuple[list[int], list[int]]:
        """Stride and padding; a fully connected layer is a 1x1 convolution of 1x1 images."""
        p = self.product
        return (list(p.stride), list(p.padding)) if isinstance(p, Conv2d) else ([1, 1], [0, 0])

    def images(self, x: Tensor) -> Tensor:
        """``x`` with axes for height and width: ``(rows, B, C, H, W)``."""
        return x if isinstance(self.product, Conv2d) else x.flatten(2)[..., None, None]

    def kernel(self, weight: Tensor) -> Tensor:
        """``weight (N, C, R, S)``."""
        return weight if isinstance(self.product, Conv2d) else weight[..., None, None]

    def features(self, x: Tensor) -> Tensor:
        """The inverse of `images`."""
        return x if isinstance(self.product, Conv2d) else x.flatten(2)

    def outputs(
        self,
        words: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        start: Tensor | None,
        save: bool,
        emit: bool,
        carry: bool,
    ) -> tuple[Tensor, ...]:
        """Spikes, packed spikes, y, checkpoints and state, as images; see the operator ``spike_weighted``."""
        kernel = self.kernel(weight).to(self.dtype).contiguous(memory_format=torch.channels_last)
        start = None if start is None else self.images(start)
        flags = save, emit, carry
        return spike_weighted(
            self.images(words), kernel, bias, start, write_settings(*self.neuron), self.steps, *self.strides(), *flags
        )


# One kernel forward, but two nodes on autograd's graph: what the neurons keep and receive is freed once their own
# errors are known, before the gradient of the input is allocated.


class _FusedProduct(torch.autograd.Function):
    """y = W s as autograd sees it, without contents. Its gradient e becomes those of input and weights."""

    @staticmethod
    def forward(
        ctx: Any, link: Tensor, words: Tensor, weight: Tensor, bias: Tensor | None, layer: FusedLayer
    ) -> Tensor:
        ctx.save_for_backward(words, weight)
        ctx.layer, ctx.shape, ctx.dtype = layer, link.shape, link.dtype
        return ghost(layer.product.shape(link.shape, weight.shape), weight.new_empty((), dtype=layer.dtype))

    @staticmethod
    @first_order
    def backward(ctx: Any, e: Tensor) -> tuple[Tensor | None, ...]:
        words, weight = ctx.saved_tensors
        layer, needed = ctx.layer, ctx.needs_input_grad
        with set_autocast(e.device.type, None):
            x = KeptInput(ctx.shape, ctx.dtype, (ghost(ctx.shape, e),))
            grad_x, _, grad_bias = layer.product.gradients(e, x, weight, (needed[0], False, needed[3]))
        grad_weight = None
        if needed[2]:
            grad_weight = fused_weight_gradient(
                layer.images(e), layer.images(words), layer.kernel(weight), layer.steps, *layer.strides()
            ).view_as(weight)
        return None if grad_x is None else grad_x.to(ctx.dtype), None, grad_weight, grad_bias, None


class _FusedNeurons(torch.autograd.Function):
    """The kernel: product and neurons. Its backward is that of the neurons, from y kept or computed again.

    Weight and bias receive their gradients through y.
    """

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        words: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        start: Tensor | None,
        layer: FusedLayer,
    ) -> tuple[Tensor, Tensor, Tensor]:
        spikes, packed, current, checkpoints, after = layer.outputs(
            words, weight, bias, start, layer.save, layer.dense, layer.carry
        )
        kept = (current, checkpoints) if layer.save else (words, weight, bias)
        ctx.save_for_backward(start, packed, *kept)
        ctx.layer = layer
        packed, after = layer.features(packed), layer.features(after)
        ctx.mark_non_differentiable(packed, after)
        ctx.set_materialize_grads(False)
        return layer.features(spikes) if layer.dense else ghost(y.shape, spikes), packed, after

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor | None, *unused: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 6
        start, packed, *kept = ctx.saved_tensors
        layer = ctx.layer
        if not layer.save:
            words, weight, bias = kept
            kept = layer.outputs(words, weight, bias, start, True, False, False)[2:4]
        current, checkpoints = kept
        before = None if start is None else layer.images(start)
        e, _ = run_backward(layer.images(grad), current, None, packed, checkpoints, before, layer.neuron)
        return layer.features(e), None, None, None, None, None


def _functional(
    spikes: PackedSpikes,
    product: Product,
    weight: Tensor,
    bias: Tensor | None,
    params: LIFParameters,
    state: LIFState | None,
    recompute: bool,
    carry: bool,
    rule: Rule | str,
) -> PackedSpikes | tuple[PackedSpikes, LIFState]:
    rule = checked_rule(rule)
    if not isinstance(params, LIFParameters):
        raise TypeError(f"params must be LIFParameters, got {type(params).__name__}")
    result: PackedSpikes | Tensor
    autocast = autocast_dtype(weight.device.type)
    layer = Layer(product, Neuron(params, rule), spikes.steps, recompute, autocast)
    if has_fused_kernel(weight.device, product_dtype(weight.dtype, autocast)):
        result, after = run(layer, spikes, weight, bias, state, carry, dense=False)
    else:
        result, after = run_layer(layer, spikes, weight, bias, None, state, carry, packed_out=True, bits_out=True)
    packed = result if isinstance(result, PackedSpikes) else PackedSpikes.pack(result)
    return packed if after is None else (packed, after)


def _check_layer(spikes: object, weight: object, bias: object, axes: int) -> None:
    names = "(out, in)" if axes == 2 else "(K, C, h, w)"
    if not isinstance(spikes, PackedSpikes):
        raise TypeError(
            f"spikes must be PackedSpikes, got {type(spikes).__name__}; pack a spike train with "
            "PackedSpikes.pack(spikes), or use SpikingLinear and SpikingConv2d for inputs that are no spikes"
        )
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight must be a tensor {names}, got {type(weight).__name__}")
    if weight.dim() != axes:
        raise ValueError(f"weight must be {names}, got shape {tuple(weight.shape)}")
    if weight.device != spikes.device:
        raise ValueError(f"weight must be on {spikes.device} as the spikes are, got {weight.device}")
    if autocast_dtype(weight.device.type) is None and weight.dtype != spikes.dtype:
        raise TypeError(f"weight must be {spikes.dtype} as the spikes are, or used under autocast, got {weight.dtype}")
    if bias is not None and (not isinstance(bias, Tensor) or bias.shape != weight.shape[:1]):
        given = tuple(bias.shape) if isinstance(bias, Tensor) else type(bias).__name__
        raise ValueError(f"bias must be a tensor ({weight.shape[0]},) or None, got {given}")


def _check_images(spikes: PackedSpikes, weight: Tensor, function: Conv2d) -> None:
    if len(spikes.shape) != 5 or spikes.shape[2] != weight.shape[1]:
        raise ValueError(f"spikes must be (T, B, {weight.shape[1]}, H, W), got shape {tuple(spikes.shape)}")
    if min(function.shape(spikes.shape, weight.shape)[3:]) < 1:
        raise ValueError(
            f"weight's {weight.shape[2]}x{weight.shape[3]} kernel does not fit images of "
            f"{spikes.shape[3]}x{spikes.shape[4]} with padding {function.padding}"
        )
