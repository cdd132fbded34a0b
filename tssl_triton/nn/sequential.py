"""Layers one after the other."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn

from tssl_triton import _torch_private
from tssl_triton.functional import LIFState
from tssl_triton.operators import PackedSpikes

from .neurons import LIF, Input
from .pooling import SpikePool2d, TimeSharedDropout
from .recurrent import SpikingRecurrent
from .weighted import SpikingConv2d

_OWN_FORWARD = {kind.forward for kind in (SpikingConv2d, SpikePool2d, SpikingRecurrent, TimeSharedDropout)}
"""Of the layers that hand on bits. A subclass with a ``forward`` of its own receives dense spikes."""


class SpikingSequential(nn.Sequential):
    """Layers one after the other.

    Called with ``return_state=True`` it returns the spikes and a list with one state per layer (None for layers
    without neurons), which the next window is called with. The list holds the state of a custom layer too, if its
    ``forward`` takes ``state`` and ``return_state`` as those of this package do.

    Between this package's layers spikes travel with their bits, which these layers keep for backward in place of the
    dense tensor. A layer with hooks, a subclass with its own ``forward`` and any other module receive dense spikes.

    Raises:
        TypeError, ValueError: for a state that is not a list of one entry per layer; and, where states are asked for,
            for a module such as ``nn.Sequential`` that holds neurons but takes no state.
    """

    def forward(
        self, x: Input, state: Sequence[LIFState | None] | None = None, return_state: bool = False
    ) -> Input | tuple[Input, list[LIFState | None]]:
        if state is not None and not isinstance(state, Sequence):
            raise TypeError(f"state must be a sequence of one entry per layer, {len(self)}, got {type(state).__name__}")
        if state is not None and len(state) != len(self):
            raise ValueError(f"state must hold one entry per layer, {len(self)}, got {len(state)}")
        layers: list[Any] = list(self)
        hooked = _torch_private.has_global_hooks()
        hands_on = [not hooked and _hands_on(layer) for layer in layers]
        new_state: list[LIFState | None] = []
        for k, layer in enumerate(layers):
            before = None if state is None else state[k]
            if hands_on[k]:
                following = layers[k + 1] if k + 1 < len(layers) and hands_on[k + 1] else None
                x, after = layer._run(x, before, return_state, following)
            else:
                x = x.dense() if isinstance(x, PackedSpikes) else x
                x, after = _call(k, layer, x, before, return_state)
            new_state.append(after)
        return (x, new_state) if return_state else x


def _hands_on(layer: nn.Module) -> bool:
    """Whether the layer's own ``forward`` alone would run: no hook, no subclass, no replacement."""
    hooked = any(getattr(layer, hooks) for hooks in _torch_private.HOOKS) or "forward" in layer.__dict__
    return type(layer).forward in _OWN_FORWARD and not hooked


def _call(place: int, layer: nn.Module, x: Input, state: LIFState | None, carry: bool) -> tuple[Input, LIFState | None]:
    """The output of a layer and, with ``carry``, its state."""
    asked = carry or state is not None
    if not isinstance(layer, (LIF, SpikingSequential)) and not (asked and _takes_state(place, layer)):
        return layer(x), None
    if carry:
        return layer(x, state, return_state=True)
    return layer(x, state), None


def _takes_state(place: int, layer: nn.Module) -> bool:
    """Whether the ``forward`` of a custom layer takes a state and returns one when asked to.

    Raises:
        TypeError: if it does not although there are neurons in it.
    """
    forward = type(_torch_private.uncompiled(layer)).forward
    if {"state", "return_state"} <= inspect.signature(forward).parameters.keys():
        return True
    if any(isinstance(module, LIF) for module in layer.modules()):
        raise TypeError(
            f"layer {place}, {type(layer).__name__}, holds neurons but its forward takes no state and return_state; "
            "put its layers into a SpikingSequential, or run the whole sequence at once, without states"
        )
    return False
