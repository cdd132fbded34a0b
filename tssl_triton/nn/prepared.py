"""The neurons of a weighted layer, and what sums their spikes: forward, and back to the gradient of their input y.

Runs of one window from rest, as training loops make again and again, are prepared on a CPU: what their calls have in
common is found out once, and a call then takes ten microseconds where the operators take fifty. The numbers are the
same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tssl_triton.cpu import compiler as _cpp
from tssl_triton.cpu import neuron as _cpu
from tssl_triton.cpu.loop import Call
from tssl_triton.cpu.sum_pooling import Sizes, SumPool
from tssl_triton.functional import constants
from tssl_triton.kernels.layout import WINDOW, arithmetic_dtype, checkpoint_rows
from tssl_triton.operators import neuron as _ops
from tssl_triton.operators import pooled as _pooled_ops
from tssl_triton.operators import registration as _operators
from tssl_triton.operators.layout import flat, in_layout_of, time_dense
from tssl_triton.operators.records import Packed
from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import Rule


def on_cpu(device: torch.device) -> bool:
    """Whether the loops for the CPU run there, or what stands for them, and nobody traces what runs."""
    return not _operators.traced() and _ops.on_loops(device)


def direct(tensors: list[Tensor]) -> bool:
    """Whether prepared calls may serve for what is made of these tensors: on a CPU, where nobody follows operators."""
    return _ops.on_loops(tensors[0].device) and not _operators.followed(tensors) and _cpp.wanted()


def filtered(x: Tensor, tau_syn: float, reverse: bool) -> Tensor:
    """The synaptic filter of ``x (T, B, *)`` from rest, or its transpose in time: `psc_filter`, prepared as well."""
    steps = x.shape[0]
    neurons = x.numel() // steps
    if steps <= WINDOW and neurons and x.is_contiguous() and direct([x]) and not _operators.differentiable(x):
        call = _cpp.compiled(lambda: _cpu.filter_call(steps, neurons, x.dtype, tau_syn, reverse), True)
        if call is not None:
            outputs = torch.empty_like(x)
            _operators.show("psc_filter", call, x.data_ptr(), outputs.data_ptr())
            return outputs
    return _ops.psc_filter(x, None, tau_syn, reverse, False)[0]


class Fired(NamedTuple):
    """What neurons leave: spikes, or their sums; packed spikes and checkpoints for backward; the last step's state."""

    spikes: Tensor | None
    words: Tensor | None
    checkpoints: Tensor | None = None
    after: Tensor | None = None


class Neurons(NamedTuple):
    """What the neurons of a layer are besides their input.

    Args:
        steps: number of time steps T; y holds as many, or one that serves all.
        params: constants of the neurons and of their gradient.
        rule: the learning rule.
        pool: what sums the spikes, for images that its window fits into; None leaves them as they are.
    """

    steps: int
    params: LIFParameters
    rule: Rule
    pool: SumPool | None = None

    def dense(self, y: Tensor) -> Tensor:
        """y in a memory order that these neurons take."""
        return time_dense(y) if self.pool is None else _pooled_ops.dense_images(y)

    def forward(self, y: Tensor, state: Tensor | None, keep: bool, carry: bool, dense: bool = True) -> Fired:
        """With ``keep`` words and checkpoints are for backward, with ``carry`` there is a state afterwards.

        Without ``dense`` words serve for spikes.
        """
        keep = keep or not dense
        settings = constants(self.params)
        if self.pool is None:
            return Fired(*_ops.lif_forward(y, state, self.steps, True, keep, carry, *settings))
        sums = *self.pool.size, self.pool.scale
        return Fired(*_pooled_ops.lif_pool_forward(y, state, self.steps, keep, carry, *sums, *settings))

    def packed(self, words: Tensor) -> Packed:
        """The packed form of what comes out of them."""
        packed = Packed(words, self.steps)
        return packed if self.pool is None else packed.followed_by(self.pool)

    def checkpoints(self, y: Tensor, state: Tensor | None) -> Tensor:
        """The checkpoints alone; a run of one window has none, and needs no walk to find them."""
        if checkpoint_rows(self.steps) > 0:
            checkpoints = self.forward(y, state, True, False).checkpoints
            assert checkpoints is not None
            return checkpoints
        return y.new_empty((0, y[0].numel()), dtype=arithmetic_dtype(y.dtype))

    def backward(
        self,
        grad: Tensor,
        y: Tensor,
        words: Tensor,
        checkpoints: Tensor | None,
        state: Tensor | None,
        overwrite: bool,
    ) -> Tensor:
        """The gradient of y from that of what came out of them; in the place of y if it may ``overwrite`` that."""
        given = y, words, self.checkpoints(y, state) if checkpoints is None else checkpoints, state
        pool = self.pool
        if overwrite and on_cpu(y.device) and y.numel() and not _operators.followed([grad, y]):
            options: Any = {"params": self.params, "rule": self.rule.surrogate_gradient}
            if pool is None:
                fill = partial(_ops.fill_backward, _cpu.lif_backward, synapse=True, **options)
                _operators.show("lif_backward", fill, in_layout_of(grad, y), *given, y)
            else:
                fill = partial(_pooled_ops.fill_backward, pool=pool, **options)
                _operators.show("lif_pool_backward", fill, grad, *given, y)
            return y
        settings = constants(self.params, self.rule)
        if pool is None:
            return _ops.lif_backward(grad, *given, True, *settings)
        return _pooled_ops.lif_pool_backward(grad, *given, *pool.size, pool.scale, *settings)


class Ready:
    """Neurons whose runs are one window from rest, for inputs of one layout: calls that `direct` must have allowed.

    They do nothing where there turns out to be no compiler.
    """

    def __init__(self, neurons: Neurons, shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> None:
        y = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        if neurons.pool is None:
            outputs, pooling = _ops.lif_outputs(y, neurons.steps, True, False), None
        else:
            outputs = _pooled_ops.outputs(y, neurons.steps, True, False, neurons.pool)
            pooling = neurons.pool, Sizes.of(y[0])
        spikes, words, *_ = outputs
        self._spikes, self._words = (
            partial(torch.empty_strided, x.shape, x.stride(), dtype=x.dtype) for x in (spikes, words)
        )
        self._like = spikes
        self._names = [f"{'lif' if neurons.pool is None else 'lif_pool'}_{way}" for way in ("forward", "backward")]
        rule = neurons.rule.surrogate_gradient
        self._single = _cpu.Single(flat(y), flat(spikes), flat(words), neurons.params, rule, pooling)
        self._calls: dict[str, Call] = {}

    def forward(self, y: Tensor, keep: bool, dense: bool) -> Fired | None:
        """As `Neurons.forward`, but that without ``dense`` there are no spikes at all."""
        name = "forward" if keep and dense else "inference" if dense else "packing"
        call = self._calls.get(name) or self._call(name)
        if call is None:
            return None
        spikes = self._spikes() if dense else None
        words = self._words() if keep or not dense else None
        places = [y.data_ptr()]
        if spikes is not None:
            places.append(spikes.data_ptr())
        if words is not None:
            places.append(words.data_ptr())
        _operators.show(self._names[0], call, *places)
        return Fired(spikes, words)

    def overwrite(self, grad: Tensor, y: Tensor, words: Tensor) -> bool:
        """Write the gradient of y in its place, if that can be."""
        call = self._calls.get("backward") or self._call("backward")
        if call is None:
            return False
        grad, bits, place = in_layout_of(grad, self._like), words.data_ptr(), y.data_ptr()
        ahead = (bits,) if self._single.looks_ahead else ()
        _operators.show(self._names[1], call, grad.data_ptr(), place, bits, *ahead, place)
        return True

    def _call(self, name: str) -> Call | None:
        """The call that `tssl_triton.cpu.neuron.Single` has under this name, as it is made for the first time."""
        call = _cpp.compiled(lambda: getattr(self._single, name))
        if call is not None:
            self._calls[name] = call
        return call
