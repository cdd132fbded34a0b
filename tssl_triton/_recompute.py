"""A weighted spiking layer that keeps bits and works the rest out again in backward.

The neuron's backward needs its weighted input y, 4 bytes per neuron-step, and for long runs a checkpoint of the state
per window, 1.5 bytes more. Both are functions of the layer's input and weights. A layer that recomputes keeps

* its own spikes, packed, which the next layer's weight gradient reads as well;
* its input: packed where it is a spike train of this package, else the tensor itself, as any linear layer would;
* its weights, which it does not own alone,

and pays one more product with the weights, and one more walk over time for a run of several windows. The product is
the same function of the same numbers in the same memory order and under the same autocast setting, so that y, and
with it every gradient, is what it would have been, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import _ops
from ._autocast import Autocast
from ._first_order import first_order
from ._layout import time_dense
from ._packed import Packed, recall, remember
from ._weighted import Map, gradients, kept, rebuilt
from .functional import LIFState, constants, stacked
from .kernels.layout import arithmetic_dtype, checkpoint_rows
from .parameters import LIFParameters
from .rules import Rule


@dataclass(frozen=True)
class Layer:
    """What a layer is besides its tensors.

    Args:
        function: its map from input and weights to y.
        steps: number of time steps T; the input holds as many, or one that serves all.
        synapse: whether y is filtered by the synapse.
        params: constants of the neurons and of their gradient.
        rule: the learning rule.
    """

    function: Map
    steps: int
    synapse: bool
    params: LIFParameters
    rule: Rule

    def neurons(self, y: Tensor, state: Tensor | None, carry: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Spikes, their packed form, checkpoints, and with ``carry`` the state after the last step."""
        return _ops.lif_forward(y, state, self.steps, self.synapse, True, carry, *constants(self.params))

    def checkpoints(self, y: Tensor, state: Tensor | None) -> Tensor:
        """The checkpoints alone; a run of one window has none, and needs no walk to find them."""
        if checkpoint_rows(self.steps) == 0:
            return y.new_empty((0, y[0].numel()), dtype=arithmetic_dtype(y.dtype))
        return self.neurons(y, state, False)[2]


def run(
    layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None, state: LIFState | None, carry: bool
) -> tuple[Tensor, LIFState | None]:
    """Spikes ``(T, B, *)`` of the layer for ``x``, ``(T, B, *)`` or ``(1, B, *)``; with ``carry`` the state too."""
    packed = recall(x)
    spikes, words, new_state = _Recomputing.apply(x, weight, bias, state, layer, carry, packed)
    remember(spikes, Packed(words, layer.steps))
    return spikes, LIFState(*new_state.unbind(0)) if carry else None


class _Recomputing(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        state: LIFState | None,
        layer: Layer,
        carry: bool,
        packed: Packed | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        y = time_dense(layer.function(x, weight, bias))
        start = stacked(state, y)
        spikes, words, _, new_state = layer.neurons(y, start, carry)
        # Saved tensors are watched: weights or an input that change in place before backward are an error there.
        ctx.save_for_backward(weight, bias, start, words, *kept(x, packed))
        ctx.layer, ctx.packed = layer, packed
        ctx.shape, ctx.dtype, ctx.autocast = x.shape, x.dtype, Autocast.now(x.device.type)
        ctx.mark_non_differentiable(words, new_state)
        ctx.set_materialize_grads(False)
        return spikes, words, new_state

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_spikes: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        weight, bias, start, words, *saved = ctx.saved_tensors
        if grad_spikes is None:
            return (None,) * 7
        layer = ctx.layer
        x = rebuilt(ctx.packed, saved, ctx.dtype)
        with ctx.autocast.again():
            y = time_dense(layer.function(x, weight, bias))
        checkpoints = layer.checkpoints(y, start)
        settings = constants(layer.params, layer.rule)
        grad_y = _ops.lif_backward(grad_spikes, y, words, checkpoints, start, layer.synapse, *settings)
        del y, checkpoints
        grads = gradients(layer.function, grad_y, ctx.shape, lambda: x, weight, ctx.needs_input_grad[:3])
        return (*grads, None, None, None, None)
