"""The neurons of a weighted layer, and what sums their spikes: forward, and back to the gradient of their input y.

Runs of one window from rest, as training loops make again and again, are prepared on a CPU: what their calls have in
common is found out once, and a call then takes ten microseconds where the operators take fifty. The numbers are the
same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _cpp, _cpu, _operators, _ops, _pooled_ops
from ._layout import flat, in_layout_of, time_dense
from ._loops import Call
from ._packed import Packed
from ._pooling import Sizes, SumPool
from .functional import constants
from .kernels.layout import WINDOW, arithmetic_dtype, checkpoint_rows
from .parameters import LIFParameters
from .rules import Rule


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
        call = _cpp.compiled(lambda: _cpu.filter_call(steps, neurons, x.dtype, tau_syn, reverse))
        if call is not None:
            outputs = torch.empty_like(x)
            with _operators.shown("psc_filter"):
                call(x.data_ptr(), outputs.data_ptr())
            return outputs
    return _ops.psc_filter(x, None, tau_syn, reverse, False)[0]


class Fired(NamedTuple):
    """What neurons leave: spikes, or their sums; packed spikes and checkpoints for backward; the last step's state; and
    prepared calls, where there can be some, which serve for backward too."""

    spikes: Tensor | None
    words: Tensor | None
    checkpoints: Tensor | None
    after: Tensor | None
    ready: _Ready | None = None


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

    def forward(
        self, y: Tensor, state: Tensor | None, keep: bool, carry: bool, dense: bool = True, directly: bool = False
    ) -> Fired:
        """With ``keep`` words and checkpoints are for backward, with ``carry`` there is a state afterwards.

        Without ``dense`` words serve for spikes, which may be None. What `direct` says is passed on as ``directly``.
        """
        ready = self._ready(y, state) if directly else None
        fired = None if ready is None or carry else ready.forward(y, keep, dense)
        if fired is not None:
            return fired
        keep = keep or not dense
        settings = constants(self.params)
        if self.pool is None:
            return Fired(*_ops.lif_forward(y, state, self.steps, True, keep, carry, *settings), ready)
        sums = *self.pool.size, self.pool.scale
        return Fired(*_pooled_ops.lif_pool_forward(y, state, self.steps, keep, carry, *sums, *settings), ready)

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
        ready: _Ready | None = None,
    ) -> Tensor:
        """The gradient of y from that of what came out of them; in the place of y if it may ``overwrite`` that.

        If `direct` says so calls that are ``ready`` may serve.
        """
        if ready is not None and overwrite and ready.overwrite(grad, y, words):
            return y
        given = y, words, self.checkpoints(y, state) if checkpoints is None else checkpoints, state
        pool = self.pool
        if overwrite and on_cpu(y.device) and y.numel() and not _operators.followed([grad, y]):
            options: Any = {"params": self.params, "rule": self.rule.surrogate_gradient}
            with _operators.shown("lif_backward" if pool is None else "lif_pool_backward"):
                if pool is None:
                    _ops.fill_backward(_cpu.lif_backward, in_layout_of(grad, y), *given, y, synapse=True, **options)
                else:
                    _pooled_ops.fill_backward(grad, *given, y, pool=pool, **options)
            return y
        settings = constants(self.params, self.rule)
        if pool is None:
            return _ops.lif_backward(grad, *given, True, *settings)
        return _pooled_ops.lif_pool_backward(grad, *given, *pool.size, pool.scale, *settings)

    def _ready(self, y: Tensor, state: Tensor | None) -> _Ready | None:
        """Prepared calls for an input like this, where there can be some."""
        if state is not None or self.steps > WINDOW or not y.numel():
            return None
        return _ready(self, y.shape, y.stride(), y.dtype)


class _Ready:
    """Neurons whose runs are one window from rest, for inputs of one layout; they do nothing without a compiler."""

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
        self._like, self._name = spikes, "lif" if neurons.pool is None else "lif_pool"
        rule = neurons.rule.surrogate_gradient
        self._single = _cpu.Single(flat(y), flat(spikes), flat(words), neurons.params, rule, pooling)
        self._calls: dict[str, Call] = {}

    def forward(self, y: Tensor, keep: bool, dense: bool) -> Fired | None:
        call = self._call("forward" if keep and dense else "inference" if dense else "packing")
        if call is None:
            return None
        spikes = self._spikes() if dense else None
        words = self._words() if keep or not dense else None
        with _operators.shown(f"{self._name}_forward"):
            call(y.data_ptr(), *[x.data_ptr() for x in (spikes, words) if x is not None])
        return Fired(spikes, words, None, None, self)

    def overwrite(self, grad: Tensor, y: Tensor, words: Tensor) -> bool:
        """Write the gradient of y in its place, if that can be."""
        call = self._call("backward")
        if call is None:
            return False
        grad, bits = in_layout_of(grad, self._like), words.data_ptr()
        with _operators.shown(f"{self._name}_backward"):
            call(grad.data_ptr(), y.data_ptr(), bits, *((bits,) if self._single.looks_ahead else ()), y.data_ptr())
        return True

    def _call(self, name: str) -> Call | None:
        """The call that `tssl_triton._cpu.Single` has under this name."""
        call = self._calls.get(name)
        if call is None:
            call = _cpp.compiled(lambda: getattr(self._single, name))
            if call is not None:
                self._calls[name] = call
        return call


_ready = lru_cache(maxsize=256)(_Ready)
