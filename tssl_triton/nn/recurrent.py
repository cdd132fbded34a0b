"""A fully connected spiking layer with feedback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tssl_triton._checks import check_count, check_features, check_flag, check_like, check_same_dtype, check_sequence
from tssl_triton.encoding import StaticInput
from tssl_triton.functional import LIFState, stacked, stacked_constants
from tssl_triton.operators import PackedSpikes, Recipe, differentiable, is_traced, recurrent_forward, write_settings
from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import Rule

from .neurons import LIF, Input, each_step
from .products import LINEAR, weighted
from .weighted import initial_weight


class RecurrentState(NamedTuple):
    """What a `SpikingRecurrent` carries from one window of time to the next; each ``(B, hidden)``.

    Args:
        current: synaptic current i after the last step.
        membrane: membrane potential v after the last step and its reset.
        psc: postsynaptic current a that the neurons' own spikes have left.
        spikes: spikes of the last step, the feedback of the next one.
    """

    current: Tensor
    membrane: Tensor
    psc: Tensor
    spikes: Tensor


class SpikingRecurrent(LIF):
    """Fully connected spiking layer with feedback: ``y[t] = W s_in[t] + V s[t-1] (+ bias)``, then synapse and neurons.

    Args:
        in_features: features of the input; all axes after batch are flattened.
        hidden: number of neurons H.
        params: constants of the neurons and of their gradient.
        bias: whether to add a learnable constant to y at every step.
        weight_scale: factor on the initial W, which is Kaiming-normal.
        recurrent_scale: factor on the initial V, which is Kaiming-normal.
        rule: the learning rule: ``"tssl"``, ``"stbp"``, ``"slayer"``, or one of `tssl_triton.rules`.
        learn: constants of the neurons that are parameters, see `LIF`.
        per: one value of each per ``"layer"`` or per ``"neuron"``.

    W x is one product for all steps; V s[t-1] is a product for each step. The error of a spike comes from the loss and,
    through V, from the next step ::

        G[t] = dL/ds[t] + V^T e[t+1],      dL/dV = sum over t of e[t] s[t-1]^T

    with e = dL/dy by the layer's rule: backpropagation through time within a call. States carry no gradient. On a GPU a
    step is two launches forwards and three backwards.
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        params: LIFParameters = LIFParameters(),
        *,
        bias: bool = False,
        weight_scale: float = 1.0,
        recurrent_scale: float = 1.0,
        rule: Rule | str = "tssl",
        learn: Sequence[str] = (),
        per: str = "layer",
    ) -> None:
        super().__init__(params, rule=rule, learn=learn, per=per, shape=(check_count("hidden", hidden),))
        self.in_features = check_count("in_features", in_features)
        self.hidden = hidden
        self.weight = initial_weight((hidden, in_features), weight_scale)
        self.recurrent_weight = initial_weight((hidden, hidden), recurrent_scale, "recurrent_scale")
        self.bias = nn.Parameter(torch.zeros(hidden)) if check_flag("bias", bias) else None

    def forward(  # type: ignore[override]
        self, x: Input, state: RecurrentState | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, RecurrentState]:
        """Spikes ``(T, B, hidden)`` for ``x (T, B, *)``, a `StaticInput` or `PackedSpikes`; with ``return_state`` the
        state after the last step too."""
        spikes, after = self._run(x, state, return_state)
        assert isinstance(spikes, Tensor)
        return spikes if after is None else (spikes, after)

    def _run(
        self, x: Input, state: RecurrentState | None, carry: bool, following: nn.Module | None = None
    ) -> tuple[Tensor | PackedSpikes, RecurrentState | None]:
        values = self._product(x.values[None] if isinstance(x, StaticInput) else x)
        steps = x.steps if isinstance(x, StaticInput) else len(values)
        start, before = self._start(state, values)
        learnt = self._learnt()
        rows = None if learnt is None else stacked_constants(learnt, self.params, values)
        keep = differentiable(values, self.recurrent_weight, rows)
        settings = write_settings(self.params, self.rule)
        spikes, words, _, _, final = recurrent_forward(
            values, self.recurrent_weight, rows, start, before, settings, steps, keep
        )
        after = None
        if carry:
            current, membrane, psc = final.detach().unbind(0)
            after = RecurrentState(current, membrane, psc, spikes[-1].detach())
        if keep and following is not None and not is_traced([spikes]):
            return PackedSpikes((words.detach(),), Recipe(steps), spikes), after
        return spikes, after

    def weighted(self, x: Input) -> Input:
        """``W x (+ bias)``, ``(T, B, hidden)``: what y is without feedback."""
        return each_step(x, self._product)

    def _product(self, x: Tensor | PackedSpikes) -> Tensor:
        link = check_sequence("x", x.link if isinstance(x, PackedSpikes) else x)
        check_features("x", link.shape, self.in_features)
        check_same_dtype("x", link, self.weight)
        return weighted(LINEAR, x, self.weight, self.bias)

    def _start(self, state: RecurrentState | None, y: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The neurons' state ``(3, B, H)`` and the spikes of the step before the first, ``(B, H)``."""
        if state is None:
            return None, None
        if not isinstance(state, RecurrentState):
            raise TypeError(f"state must be a RecurrentState, got {type(state).__name__}")
        spikes = check_like("state.spikes", state.spikes, tuple(y.shape[1:]), y.device)
        return stacked(LIFState(*state[:3]), y), spikes.detach()

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.hidden}, {super().extra_repr()}"
