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
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tssl_triton.cpu.spike_products import Listed, Sized, may_take
from tssl_triton.functional import LIFState, stacked
from tssl_triton.kernels.layout import WINDOW
from tssl_triton.operators.autocast import Autocast
from tssl_triton.operators.first_order import first_order
from tssl_triton.operators.records import Packed, remember
from tssl_triton.operators.registration import differentiable

from .prepared import Neurons, Ready, direct
from .products import Gradients, Input, Linear, Map, kept, product, rebuilt


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

    def shape(self, x: Sequence[int], weight: Sequence[int]) -> tuple[int, ...]:
        """Shape of what comes out for an input and weights of these shapes."""
        neurons = self.function.shape(x, weight)[1:]
        pool, steps = self.neurons.pool, self.neurons.steps
        return (steps, *neurons) if pool is None else (steps, *neurons[:2], *pool.windows(*neurons[2:]))


Parameters = Sequence[Tensor | None]
"""Weight and bias of each layer in turn."""


class Chain:
    """Layers one after the other on inputs of one size, and what can be said of that once and for all.

    Args:
        links: the layers.
        shape: of the input.
        weights: of each layer.

    Attributes:
        shapes: of each layer's input.
        spelled: of each layer, whether its spikes have to be spelled out, as the next one may not take them packed.
    """

    def __init__(self, links: Sequence[Link], shape: Sequence[int], weights: Sequence[Sized]) -> None:
        self.links = links
        self.shapes = [shape]
        for link, weight in zip(links, weights, strict=True):
            self.shapes.append(link.shape(self.shapes[-1], weight.shape))
        self.spelled = [
            link.neurons.pool is not None or not _takes_bits(following, self.shapes[k + 1], weight)
            for k, (link, following, weight) in enumerate(zip(links, links[1:], weights[1:], strict=False))
        ]
        self.spelled.append(True)
        self._ready: list[dict[Any, Ready]] = [{} for _ in links]

    def ready(self, k: int, y: Tensor) -> Ready | None:
        """Prepared calls of the neurons of layer k from rest, if there can be some for such an input of theirs."""
        layout, neurons = (y.stride(), y.dtype), self.links[k].neurons
        found = self._ready[k].get(layout)
        if found is None and neurons.steps <= WINDOW and y.numel():
            found = self._ready[k][layout] = Ready(neurons, y.shape, *layout)
        return found


def _takes_bits(link: Link, shape: Sequence[int], weight: Sized) -> bool:
    """Whether packed spikes of a shape may be all that a layer needs of the one before."""
    return isinstance(link.function, Linear) and may_take(shape[0], shape[1], weight)


@lru_cache(maxsize=256)
def chain_of(link: Link, shape: torch.Size, weight: Sized) -> Chain:
    """The chain of one layer."""
    return Chain([link], shape, [weight])


def sized(weight: Tensor) -> Sized:
    return Sized(weight.shape, weight.dtype, weight.device)


def run(
    chain: Chain,
    x: Tensor,
    packed: Packed | None,
    parameters: Parameters,
    states: Sequence[LIFState | None],
    carry: bool,
) -> tuple[Tensor, list[LIFState | None]]:
    """What comes out of the last layer for ``x``, ``(T, B, *)`` or ``(1, B, *)``, and its packed form, where it has
    one; with ``carry`` each layer's state."""
    layers: list[_Layer] = []
    if differentiable(x, *parameters):
        spikes = _Node.apply(x, chain, packed, states, carry, layers, *parameters)
        last = layers[-1]
        assert last.words is not None
        remember(spikes, _packed(chain.links[-1], last.words, last.mask))
    else:
        spikes = _forward(chain, x, packed, parameters, states, False, carry, layers)
    afters = [layer.after if carry else None for layer in layers]
    return spikes, [None if after is None else LIFState(*after.unbind(0)) for after in afters]


class _Layer(NamedTuple):
    """What is left of a layer after forward: the type of its input; what it has to itself for backward, where it keeps
    that: y, checkpoints, and who fires in its input, if that was found out; and its prepared calls."""

    dtype: torch.dtype
    start: Tensor | None
    words: Tensor | None
    mask: Tensor | None
    own: tuple[Tensor, Tensor | None, list[Listed]] | None
    after: Tensor | None
    ready: Ready | None


def _forward(
    chain: Chain,
    x: Tensor,
    packed: Packed | None,
    parameters: Parameters,
    states: Sequence[LIFState | None],
    keep: bool,
    carry: bool,
    layers: list[_Layer],
) -> Tensor:
    """What comes out of the last layer; what is left of each is added to ``layers``."""
    directly = direct([x, *[tensor for tensor in parameters if tensor is not None]])
    dense: Callable[[], Tensor] = partial(_itself, x)
    dtype = x.dtype
    del x
    for k, (link, state) in enumerate(zip(chain.links, states, strict=True)):
        weight, bias = parameters[2 * k], parameters[2 * k + 1]
        assert weight is not None
        listed: list[Listed] | None = [] if keep and not link.recompute else None
        y = link.neurons.dense(product(link.function, packed, dense, weight, bias, listed, directly))
        del dense  # the spikes of the layer before have done their part
        start, spelled = None if state is None else stacked(state, y), chain.spelled[k]
        calls = chain.ready(k, y) if directly and start is None else None
        fired = None if calls is None or carry else calls.forward(y, keep, spelled)
        spikes, words, checkpoints, after = fired or link.neurons.forward(y, start, keep, carry, spelled)
        mask = _mask(y if spikes is None else spikes, link.drop) if link.drop else None
        own = None if listed is None else (y, checkpoints, listed)
        layers.append(_Layer(dtype, start, words, mask, own, after, calls))
        dtype, packed = y.dtype, None
        if not spelled:
            assert words is not None
            packed = _packed(link, words, mask)
        if spikes is not None:
            dense = partial(_itself, spikes) if mask is None else partial(torch.mul, spikes, mask)
        else:
            assert packed is not None
            dense = partial(packed.rebuild, packed.tensors(), dtype)
        del y, checkpoints, own, spikes
    return dense()


def _itself(x: Tensor) -> Tensor:
    return x


def _mask(like: Tensor, drop: float) -> Tensor:
    """What a sample's neurons are multiplied by at every step, in the shape and memory order of a step of ``like``."""
    return F.dropout(torch.ones_like(like[0]), drop)


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

OF_INPUT = 6
"""Arguments of a node before weights and biases."""


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        chain: Chain,
        packed: Packed | None,
        states: Sequence[LIFState | None],
        carry: bool,
        layers: list[_Layer],
        *parameters: Tensor | None,
    ) -> Tensor:
        spikes = _forward(chain, x, packed, parameters, states, True, carry, layers)
        # Saved tensors are watched: weights or an input that change in place before backward are an error there. What
        # nobody else knows can do without, and can go early, unless someone has hooks on what is saved.
        hooks = _saving_is_watched()
        ctx.own = [None if hooks else layer.own for layer in layers]
        saved: list[Tensor | None] = [*parameters]
        for layer in layers:
            saved += layer.start, layer.words, layer.mask, *(layer.own[:2] if hooks and layer.own else (None, None))
        ctx.save_for_backward(*saved, *kept(x, packed))
        ctx.chain, ctx.packed, ctx.autocast = chain, packed, Autocast.now(x.device.type)
        ctx.layers = [(layer.dtype, layer.ready) for layer in layers]
        ctx.set_materialize_grads(False)
        return spikes

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * (OF_INPUT + 2 * len(ctx.layers))
        # Gradients have the type of forward's numbers: an autocast of now is none of theirs.
        with Autocast(grad.device.type).again():
            return _backward(ctx, grad)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """What `_Node` hands to each of its arguments for the gradient of its spikes."""
    links, saved = ctx.chain.links, ctx.saved_tensors
    count = len(links)
    of_x, of_parameters = ctx.needs_input_grad[0], ctx.needs_input_grad[OF_INPUT:]
    grads: list[Tensor | None] = [None] * (2 * count)
    waiting: list[tuple[int, Callable[[], Gradients]]] = []

    def settle() -> None:
        while waiting:
            k, found = waiting.pop()
            grads[2 * k : 2 * k + 2] = found()[1:]

    directly = direct([grad, *[tensor for tensor in saved if tensor is not None]])
    above: list[Tensor | None] = [grad]  # in a list, where it can be taken from by who needs it last
    del grad
    for k in reversed(range(count)):
        if above[0] is None:
            break
        x, errors = _errors(ctx, saved, k, above, directly)
        settle()
        function, weight = links[k].function, saved[2 * k]
        needed = of_x or any(of_parameters[: 2 * k]), *of_parameters[2 * k : 2 * k + 2]
        if isinstance(function, Linear):
            # The gradient of the input first, and those of weights once the layer below has made use of it: there need
            # not be room for all of them at once.
            above = [function.gradients(errors, x, weight, (True, False, False))[0] if needed[0] else None]
            waiting.append((k, partial(function.gradients, errors, x, weight, (False, *needed[1:]))))
        else:
            of_input, *grads[2 * k : 2 * k + 2] = function.gradients(errors, x, weight, needed)
            above = [of_input]
            del of_input
        del errors, x
    settle()
    return above.pop(), *[None] * (OF_INPUT - 1), *grads


def _saved_of(saved: tuple[Any, ...], count: int, k: int) -> tuple[Any, ...]:
    """Start, words, mask, y and checkpoints of layer k, of ``count``."""
    return saved[2 * count + OF_A_LAYER * k :][:OF_A_LAYER]


def _errors(
    ctx: Any, saved: tuple[Any, ...], k: int, above: list[Tensor | None], directly: bool
) -> tuple[Input, Tensor]:
    """The input of layer k, and the gradient of its y from that of its spikes, which is taken from ``above``."""
    link, shape, (dtype, calls), count = ctx.chain.links[k], ctx.chain.shapes[k], ctx.layers[k], len(ctx.layers)
    start, words, mask, y, checkpoints = _saved_of(saved, count, k)
    if k == 0:
        packed, of_input = ctx.packed, saved[(2 + OF_A_LAYER) * count :]
    else:
        packed = _packed(ctx.chain.links[k - 1], *_saved_of(saved, count, k - 1)[1:3])
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
            y = link.neurons.dense(product(link.function, packed, dense, saved[2 * k], saved[2 * k + 1]))
        checkpoints = None
    x = Input(shape, dtype, packed, dense, turned, listed[0] if listed else None, directly)
    grad = above.pop()
    assert grad is not None
    if mask is not None:
        grad = grad * mask if k == count - 1 else grad.mul_(mask)  # of layers between nobody else knows it
    if directly and calls is not None and not watched and calls.overwrite(grad, y, words):
        return x, y
    return x, link.neurons.backward(grad, y, words, checkpoints, start, not watched)
