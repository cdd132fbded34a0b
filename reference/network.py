"""A whole spiking network, forward and backward.

Each weighted layer multiplies the spikes (or the real-valued input) by its weights; the result passes the
receiving neurons' synapse, then their membrane: the network's input has a synapse too. Pooling is linear and
acts on spikes as they are. The loss is taken on the last layer's spikes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .layers import Layer, Pool
from .losses import van_rossum
from .neuron import Array, Reset, Trace, lif_forward, with_time_axis
from .phi import Variant, WarmUp, lif_backward

Loss = Callable[[Array, ArrayLike], tuple[float, Array]]


class NetworkResult(NamedTuple):
    """What one forward and backward run of a network gives."""

    loss: float
    spikes: Array
    """Output spikes, ``(T, B, *features)``."""
    psc: Array
    """Output PSC, ``(T, B, *features)``."""
    weight_grads: list[Array]
    """Gradient of each weighted layer's weight, in order."""
    bias_grads: list[Array | None]
    """Gradient of each weighted layer's bias, in order; None for a layer without bias."""
    input_grad: Array
    """Gradient with respect to the network's input, ``(T, B, *features)``."""
    traces: list[Trace]
    """What the neurons of each weighted layer passed through, in order."""


def run_network(
    layers: Sequence[Layer],
    x: ArrayLike,
    target: ArrayLike,
    *,
    tau_mem: float,
    tau_syn: float,
    threshold: float,
    reset: Reset = "zero",
    max_slope: float = 8.0,
    warmup: WarmUp = "psc",
    variant: Variant = "released",
    loss: Loss | None = None,
) -> NetworkResult:
    """Run a network forward and backward.

    Args:
        layers: the layers in order; the last one must be weighted.
        x: input, ``(T, B, *features)``, spikes or real numbers.
        target: what the loss compares the output spikes with; for the default loss target spikes,
            ``(T, B, *features)``.
        loss: ``loss(spikes, target)`` gives the loss and its gradient with respect to the spikes; the
            van Rossum distance, eq. (7), if not given.

    Raises:
        ValueError: if there is no layer, or the last one has no neurons.
    """
    if not layers or isinstance(layers[-1], Pool):
        raise ValueError("layers must end with a weighted layer, whose neurons are the network's output")

    # Forward: keep every layer's input and every weighted layer's trace.
    signal = with_time_axis("x", x)
    inputs: list[Array] = []
    traces: list[Trace] = []
    for layer in layers:
        inputs.append(signal)
        y = _unfold_time(layer.forward(_fold_time(signal)), signal.shape[:2])
        if isinstance(layer, Pool):
            signal = y
        else:
            neurons = lif_forward(y, tau_mem=tau_mem, tau_syn=tau_syn, threshold=threshold, reset=reset)
            traces.append(neurons)
            signal = neurons.spikes

    value, grad = loss(signal, target) if loss else van_rossum(signal, target, tau_syn)

    # Backward: through the neurons, then through the weights.
    weight_grads: list[Array] = []
    bias_grads: list[Array | None] = []
    traces_left = list(traces)
    for layer, layer_input in reversed(list(zip(layers, inputs, strict=True))):
        folded = _fold_time(layer_input)
        if isinstance(layer, Pool):
            folded_grad = layer.backward(folded, _fold_time(grad))
        else:
            grad_y = lif_backward(
                traces_left.pop(),
                grad,
                tau_mem=tau_mem,
                tau_syn=tau_syn,
                threshold=threshold,
                reset=reset,
                max_slope=max_slope,
                warmup=warmup,
                variant=variant,
            )
            folded_grad, grad_weight, grad_bias = layer.backward(folded, _fold_time(grad_y))
            weight_grads.insert(0, grad_weight)
            bias_grads.insert(0, None if layer.bias is None else grad_bias)
        grad = folded_grad.reshape(layer_input.shape)

    output = traces[-1]
    return NetworkResult(value, output.spikes, output.psc, weight_grads, bias_grads, grad, traces)


def _fold_time(values: Array) -> Array:
    """``(T, B, *features)`` as ``(T B, *features)``."""
    return values.reshape(-1, *values.shape[2:])


def _unfold_time(values: Array, time_and_batch: tuple[int, ...]) -> Array:
    """``(T B, *features)`` as ``(T, B, *features)``."""
    return np.reshape(values, (*time_and_batch, *values.shape[1:]))
