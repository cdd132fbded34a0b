"""One weighted layer as one node on autograd's graph, on every device; as two where something traces it.

Forward takes the product of input and weights, y, and runs the neurons on it. For backward the node keeps

* the input: as packed spikes where it has them, else as the tensor;
* its own spikes, packed;
* y, 4 bytes per neuron-step in float32, and the checkpoints of a long run; with ``recompute`` neither of these.

Only the node holds y, so backward writes the gradient of y into its memory. Where the spikes went to layers of this
package alone, the memory of their gradient is freed as soon as it has been read. A second backward over a retained
graph, and every backward with ``recompute``, computes y again: the same function of the same numbers in the same memory
order and under the same autocast setting, so that all gradients are bit-identical.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tssl_triton._torch_private import saved_tensor_hooks
from tssl_triton.encoding import StaticInput
from tssl_triton.functional import LIFConstants, LIFState, lif, stacked, stacked_constants
from tssl_triton.kernels.layout import WINDOW, word_dtype
from tssl_triton.operators import (
    ActiveInputs,
    Forward,
    Neuron,
    PackedSpikes,
    Recipe,
    differentiable,
    first_order,
    ghost,
    is_traced,
    pack,
    run_backward,
    run_forward,
    set_autocast,
    time_dense,
)

from .products import KeptInput, Product


class Layer(NamedTuple):
    """A weighted layer without its tensors.

    Args:
        product: of input and weights.
        neuron: constants and learning rule.
        steps: time steps T; the input has as many, or one that serves all.
        recompute: whether backward computes y again.
        autocast: the type that autocast casts to in forward; None where it is off.
    """

    product: Product
    neuron: Neuron
    steps: int
    recompute: bool = False
    autocast: torch.dtype | None = None


def run_layer(
    layer: Layer,
    x: Tensor | PackedSpikes,
    weight: Tensor,
    bias: Tensor | None,
    learnt: LIFConstants | None,
    state: LIFState | None,
    carry: bool,
    packed_out: bool = False,
    bits_out: bool = False,
    private: bool = False,
) -> tuple[Tensor | PackedSpikes, LIFState | None]:
    """Spikes of the layer; with ``carry`` its state too.

    Args:
        layer: what to run.
        x: the input ``(T, B, *)``, or ``(1, B, *)`` where one serves all steps.
        weight, bias: of the product.
        learnt: learnt constants of the neurons, or None.
        state: state to start from; None is at rest.
        carry: whether to return the state after the last step.
        packed_out: whether to return `PackedSpikes`, where there are bits: while gradients are recorded.
        private: whether the spikes go to a layer of this package alone, which computes with them.
        bits_out: whether bits suffice; dense spikes are then written only where the device cannot leave them out.
    """
    link = x if isinstance(x, Tensor) else x.link
    if is_traced([link, weight, bias]):
        y = layer.product(x if isinstance(x, Tensor) else x.dense(), weight, bias)
        current = StaticInput(y.squeeze(0), layer.steps) if len(y) < layer.steps else y
        options: dict[str, Any] = {"state": state, "return_state": carry, "rule": layer.neuron.rule, "learnt": learnt}
        found: Any = lif(current, layer.neuron.params, **options)
        spikes, after = found if carry else (found, None)
        if not bits_out:
            return spikes, after
        return PackedSpikes((pack(spikes.detach(), word_dtype(layer.steps)),), Recipe(layer.steps), spikes), after
    constants = None
    if learnt is not None:
        shape, dtype = layer.product.shape(link.shape, weight.shape), product_dtype(weight.dtype, layer.autocast)
        constants = stacked_constants(learnt, layer.neuron.params, ghost(shape, weight.new_empty((), dtype=dtype)))
    if differentiable(link, weight, bias, constants):
        runs: list[Forward] = []
        spikes = _LayerNode.apply(link, weight, bias, constants, layer, x, state, carry, bits_out, private, runs)
        (run,) = runs
    else:
        *_, run, spikes = _forward(layer, x, weight, bias, constants, state, False, carry, bits_out)
    new_state = None if run.state is None else LIFState(*run.state.unbind(0))
    if run.words is None or not (packed_out or bits_out):
        return spikes, new_state
    return PackedSpikes((run.words,), Recipe(layer.steps), spikes), new_state


def product_dtype(weight: torch.dtype, autocast: torch.dtype | None) -> torch.dtype:
    """The type of a product with weights of a type: autocast's, where it is on and the weights are not float64."""
    return weight if autocast is None or weight == torch.float64 else autocast


def _forward(
    layer: Layer,
    x: Tensor | PackedSpikes,
    weight: Tensor,
    bias: Tensor | None,
    constants: Tensor | None,
    state: LIFState | None,
    keep: bool,
    carry: bool,
    bits_out: bool,
) -> tuple[Tensor, ActiveInputs | None, Tensor | None, Forward, Tensor]:
    """y, the active inputs, the state to start from, the run of the neurons, and their spikes or a tensor for these."""
    y, active = layer.product.of(x, weight, bias)
    if not y.is_contiguous():
        y = time_dense(y)
    start = None if state is None else stacked(state, y)
    found = run_forward(
        y, constants, start, layer.neuron, layer.steps, keep=keep or bits_out, carry=carry, dense=not bits_out
    )
    spikes = y.new_empty(()).expand(layer.steps, *y.shape[1:]) if found.spikes is None else found.spikes
    return y, active, start, found, spikes


class _LayerNode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        link: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        constants: Tensor | None,
        layer: Layer,
        x: Tensor | PackedSpikes,
        state: LIFState | None,
        carry: bool,
        bits_out: bool,
        private: bool,
        runs: list[Forward],
    ) -> Tensor:
        y, active, start, run, spikes = _forward(layer, x, weight, bias, constants, state, True, carry, bits_out)
        runs.append(run)
        # Saved tensors are checked: a change in place before backward is an error. y and its checkpoints, which only
        # this node holds, need no check and can be freed early, unless hooks on saved tensors are to see them.
        ctx.watched = saved_tensor_hooks(False) is not None and not layer.recompute
        ctx.own = None if ctx.watched or layer.recompute else (y, run.checkpoints, active)
        saved = (y, run.checkpoints) if ctx.watched else (None, None)
        tensors, recipe = ((x,), None) if isinstance(x, Tensor) else (x.tensors, x.recipe)
        ctx.save_for_backward(weight, bias, constants, start, run.words, *saved, *tensors)
        ctx.layer, ctx.input, ctx.private = layer, (link.shape, link.dtype, recipe), private
        ctx.set_materialize_grads(False)
        return spikes

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 11
        # Gradients have the type of forward's numbers, whichever autocast setting is in force now.
        with set_autocast(grad.device.type, None):
            return *_gradients(ctx, grad), *[None] * 7


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of input, weight, bias and learnt constants."""
    layer: Layer = ctx.layer
    weight, bias, constants, start, words, y, checkpoints, *tensors = ctx.saved_tensors
    shape, dtype, recipe = ctx.input
    again = ctx.own is None and not ctx.watched
    x = KeptInput(shape, dtype, tensors, recipe, twice=again)
    if ctx.own is not None:
        (y, checkpoints, x.active), ctx.own = ctx.own, None
    if again:
        with set_autocast(weight.device.type, layer.autocast):
            y, x.active = layer.product.of(x, weight, bias)
            y = time_dense(y)
        if layer.steps > WINDOW:
            checkpoints = run_forward(
                y, constants, start, layer.neuron, layer.steps, keep=True, carry=False
            ).checkpoints
    given = grad, y, constants, words, checkpoints, start
    e, of_constants = run_backward(*given, layer.neuron, overwrite=not ctx.watched)
    del y, checkpoints, given
    if ctx.private and not grad.requires_grad:
        grad.untyped_storage().resize_(0)  # PyTorch holds the tensor until this function returns
    needed = ctx.needs_input_grad[:3]
    return *layer.product.gradients(e, x, weight, needed), of_constants
