"""Weighted spiking layers one after the other as one node on autograd's graph.

Every layer that recomputes is such a chain of its own, and on a CPU the layers of a `SpikingSequential` are one, as far
as nobody looks in between: a small network takes as long for calls of Python as for its products, and a chain has one
node where its layers would have two each. What it keeps for backward beside the weights is, for each layer,

* its own spikes, packed, which the next layer's weight gradient reads as well;
* its weighted input y, 4 bytes per neuron-step, and for long runs a checkpoint of the state per window, 1.5 bytes more,
  unless the layer recomputes;

and of the first one's input the packed form, where that is a spike train of this package, else the tensor itself.

Nobody else knows y. So once backward has read it, the gradient of y is written in its place, and what a layer has no
more use for is gone before the layer below begins. Who then walks back once more, over a graph that was retained, has y
worked out again, as a layer that recomputes has it each time. The product is the same function of the same numbers in
the same memory order and under the same autocast setting, so that y, and with it every gradient, is what it was, bit
for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._autocast import Autocast
from ._first_order import first_order
from ._neurons import Neurons, direct
from ._operators import differentiable
from ._packed import Packed, recall, remember
from ._spike_products import Listed, may_take
from ._weighted import Gradients, Input, Linear, Map, kept, product, rebuilt
from .functional import LIFState, stacked


class Link(NamedTuple):
    """What a layer is besides its tensors.

    Args:
        function: its map from input and weights to y.
        neurons: what y goes into; the input holds as many steps, or one that serves all.
        recompute: whether y is worked out again in backward instead of kept.
        drop: probability that a neuron is dropped, for all steps of a sample; see `TimeSharedDropout`.
    """

    function: Map
    neurons: Neurons
    recompute: bool
    drop: float = 0.0

    def weighted(self, x: Input, weight: Tensor, bias: Tensor | None, kept: list[Listed] | None = None) -> Tensor:
        """The neurons' weighted input y; who fires in x is added to ``kept``, where that was found out."""
        return self.neurons.dense(product(self.function, x, weight, bias, kept))

    def takes_bits(self, steps: int, batch: int, weight: Tensor) -> bool:
        """Whether packed spikes may be all that this layer needs of the one before."""
        return isinstance(self.function, Linear) and may_take(steps, batch, weight)


Parameters = Sequence[Tensor | None]
"""Weight and bias of each layer in turn."""


def _of(parameters: Parameters, k: int) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of layer k."""
    weight, bias = parameters[2 * k : 2 * k + 2]
    assert weight is not None
    return weight, bias


def run(
    links: Sequence[Link], x: Tensor, parameters: Parameters, states: Sequence[LIFState | None], carry: bool
) -> tuple[Tensor, list[LIFState | None]]:
    """What comes out of the last layer for ``x``, ``(T, B, *)`` or ``(1, B, *)``; with ``carry`` each layer's state."""
    if differentiable(x, *parameters):
        spikes, words, mask, *after = _Node.apply(x, states, links, carry, recall(x), *parameters)
        remember(spikes, _packed(links[-1], words, mask))
    else:
        spikes, layers = _forward(links, x, parameters, states, False, carry)
        after = [layer.after for layer in layers if carry]
    return spikes, [LIFState(*state.unbind(0)) for state in after] if carry else [None] * len(links)


def _tensors(given: Sequence[Tensor | None]) -> list[Tensor]:
    """Those that are there."""
    return [tensor for tensor in given if tensor is not None]


class _Layer(NamedTuple):
    """What is left of a layer after forward: of its input the shape and type; what it has to itself for backward, where
    it keeps that: y, checkpoints, and who fires in its input, if that was found out; and its prepared calls."""

    shape: Sequence[int]
    dtype: torch.dtype
    start: Tensor | None
    words: Tensor | None
    mask: Tensor | None
    own: tuple[Tensor, Tensor | None, list[Listed]] | None
    after: Tensor | None
    ready: Any


def _forward(
    links: Sequence[Link],
    x: Tensor,
    parameters: Parameters,
    states: Sequence[LIFState | None],
    keep: bool,
    carry: bool,
) -> tuple[Tensor, list[_Layer]]:
    layers = []
    directly = direct(_tensors((x, *parameters)))
    given = _given(x)
    del x
    for k, (link, state) in enumerate(zip(links, states, strict=True)):
        weight, bias = _of(parameters, k)
        keep_own = keep and not link.recompute
        listed: list[Listed] = []
        y = link.weighted(given, weight, bias, listed if keep_own else None)
        shape, dtype = given.shape, given.dtype
        del given  # the spikes of the layer before have done their part
        neurons, start = link.neurons, stacked(state, y)
        dense = k + 1 == len(links) or not _goes_as_bits(neurons, y, links[k + 1], _of(parameters, k + 1)[0])
        spikes, words, checkpoints, after, ready = neurons.forward(y, start, keep, carry, dense, directly)
        own = (y, checkpoints, listed) if keep_own else None
        mask = _mask(y if spikes is None else spikes, link.drop)
        layers.append(_Layer(shape, dtype, start, words, mask, own, after, ready))
        given = _fired(link, y, spikes, None if dense else words, mask, directly)
        del y, checkpoints, own, spikes
    return given.dense(), layers


def _goes_as_bits(neurons: Neurons, y: Tensor, following: Link, weight: Tensor) -> bool:
    """Whether the next layer may take the neurons' spikes packed."""
    return neurons.pool is None and following.takes_bits(neurons.steps, y.shape[1], weight)


def _mask(like: Tensor, drop: float) -> Tensor | None:
    """What a sample's neurons are multiplied by at every step, in the shape and memory order of a step of ``like``."""
    return F.dropout(torch.ones_like(like[0]), drop) if drop else None


def _given(x: Tensor) -> Input:
    return Input(x.shape, x.dtype, recall(x), lambda: x)


def _fired(
    link: Link, y: Tensor, spikes: Tensor | None, words: Tensor | None, mask: Tensor | None, directly: bool
) -> Input:
    """What comes out of a layer, as an input: spikes, or their sums, or what is to be had from words."""
    packed = None if words is None else _packed(link, words, mask)
    if spikes is None:
        assert packed is not None
        shape, dense = (link.neurons.steps, *y.shape[1:]), partial(packed.rebuild, packed.tensors(), y.dtype)
        return Input(shape, y.dtype, packed, dense, directly=directly)

    dropped = partial(torch.mul, spikes, mask) if mask is not None else lambda: spikes
    return Input(spikes.shape, spikes.dtype, packed, dropped, directly=directly)


def _packed(link: Link, words: Tensor, mask: Tensor | None) -> Packed:
    """The packed form of what comes out of a layer."""
    packed = link.neurons.packed(words)
    return packed if mask is None else packed.followed_by(torch.mul, mask)


def _saving_is_watched() -> bool:
    """Whether someone has hooks on saved tensors; a PyTorch that does not tell is taken to say so."""
    hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return hooks is None or hooks(False) is not None


# What a node saves: weight and bias of each layer; five tensors for each, start, words and mask, and y and checkpoints
# where they are watched; and what it keeps of its input.
OF_A_LAYER = 5


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        states: Sequence[LIFState | None],
        links: Sequence[Link],
        carry: bool,
        packed: Packed | None,
        *parameters: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        spikes, layers = _forward(links, x, parameters, states, True, carry)
        # Saved tensors are watched: weights or an input that change in place before backward are an error there. What
        # nobody else knows can do without, and can go early, unless someone has hooks on what is saved.
        hooks = _saving_is_watched()
        ctx.own = [None if hooks else layer.own for layer in layers]
        saved: list[Tensor | None] = [*parameters]
        for layer in layers:
            saved += layer.start, layer.words, layer.mask, *(layer.own[:2] if hooks and layer.own else (None, None))
        ctx.save_for_backward(*saved, *kept(x, packed))
        ctx.links, ctx.packed, ctx.autocast = links, packed, Autocast.now(x.device.type)
        ctx.inputs = [(layer.shape, layer.dtype, layer.ready) for layer in layers]
        after = [layer.after for layer in layers if carry]
        last = layers[-1].words, layers[-1].mask
        ctx.mark_non_differentiable(*(tensor for tensor in (*last, *after) if tensor is not None))
        ctx.set_materialize_grads(False)
        return spikes, *last, *after

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * (5 + 2 * len(ctx.links))
        # Gradients have the type of forward's numbers: an autocast of now is none of theirs.
        with Autocast(grad.device.type).again():
            return _backward(ctx, grad)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """What `_Node` hands to each of its arguments for the gradient of its spikes."""
    count, saved = len(ctx.links), ctx.saved_tensors
    of_x, of_parameters = ctx.needs_input_grad[0], ctx.needs_input_grad[5:]
    grads: list[Tensor | None] = [None] * (2 * count)
    waiting: list[tuple[int, Callable[[], Gradients]]] = []

    def settle() -> None:
        while waiting:
            k, found = waiting.pop()
            grads[2 * k : 2 * k + 2] = found()[1:]

    directly = direct(_tensors((grad, *saved)))
    above: list[Tensor | None] = [grad]  # in a list, where it can be taken from by who needs it last
    del grad
    for k in reversed(range(count)):
        if above[0] is None:
            break
        x, errors = _errors(ctx, saved, k, above, directly)
        settle()
        function, weight = ctx.links[k].function, saved[2 * k]
        needed = of_x or any(of_parameters[: 2 * k]), *of_parameters[2 * k : 2 * k + 2]
        if isinstance(function, Linear):
            # The gradient of the input first, and those of weights once the layer below has made use of it: there need
            # not be room for all of them at once.
            above = [function.gradients(errors, x, weight, (needed[0], False, False))[0]]
            waiting.append((k, partial(function.gradients, errors, x, weight, (False, *needed[1:]))))
        else:
            of_input, *grads[2 * k : 2 * k + 2] = function.gradients(errors, x, weight, needed)
            above = [of_input]
            del of_input
        del errors, x
    settle()
    return above.pop(), None, None, None, None, *grads


def _saved_of(saved: tuple[Any, ...], count: int, k: int) -> tuple[Any, ...]:
    """Start, words, mask, y and checkpoints of layer k, of ``count``."""
    return saved[2 * count + OF_A_LAYER * k :][:OF_A_LAYER]


def _errors(
    ctx: Any, saved: tuple[Any, ...], k: int, above: list[Tensor | None], directly: bool
) -> tuple[Input, Tensor]:
    """The input of layer k, and the gradient of its y from that of its spikes, which is taken from ``above``."""
    link, (shape, dtype, ready), count = ctx.links[k], ctx.inputs[k], len(ctx.links)
    start, words, mask, y, checkpoints = _saved_of(saved, count, k)
    if k == 0:
        packed, of_input = ctx.packed, saved[(2 + OF_A_LAYER) * count :]
    else:
        packed = _packed(ctx.links[k - 1], *_saved_of(saved, count, k - 1)[1:3])
        of_input = packed.tensors()
    dense: Callable[..., Tensor] = partial(rebuilt, packed, of_input, dtype)
    turned: Callable[[], Tensor] | None = partial(dense, True)
    listed: list[Listed] = []
    watched = y is not None
    if ctx.own[k] is not None:
        (y, checkpoints, listed), ctx.own[k] = ctx.own[k], None
    elif not watched:
        dense, turned = cache(dense), None  # for the product now, and for the gradient of weights later
        with ctx.autocast.again():
            y = link.weighted(Input(shape, dtype, packed, dense), *_of(saved, k))
        checkpoints = None
    x = Input(shape, dtype, packed, dense, turned, listed[0] if listed else None, directly)
    grad = above.pop()
    assert grad is not None
    if mask is not None:
        grad = grad * mask if k == count - 1 else grad.mul_(mask)  # of layers between nobody else knows it
    return x, link.neurons.backward(grad, y, words, checkpoints, start, not watched, ready if directly else None)
