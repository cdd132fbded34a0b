"""Neurons as ``torch.nn`` modules: `LIF`, and time constants and thresholds that are learnt."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tssl_triton._checks import check_choice, check_flag, check_sequence, check_shape
from tssl_triton.encoding import StaticInput
from tssl_triton.functional import LIFConstants, LIFState, lif
from tssl_triton.operators import PackedSpikes
from tssl_triton.parameters import CONSTANTS, LIFParameters
from tssl_triton.rules import DEFAULT, Rule, checked_rule

Input = Tensor | StaticInput | PackedSpikes
Output = Tensor | tuple[Tensor, LIFState]

PER = ("layer", "neuron")


class LIF(nn.Module):
    """A population of leaky integrate-and-fire neurons: `tssl_triton.functional.lif` as a module.

    Args:
        params: constants of the neurons and of their gradient.
        synapse: whether the input is filtered by the synapse first.
        rule: the learning rule: ``"tssl"``, ``"stbp"``, ``"slayer"``, or one of `tssl_triton.rules`.
        learn: constants that are parameters, of ``"tau_mem"``, ``"tau_syn"`` and ``"threshold"``; ``params`` holds
            their initial values, see `LearnableConstants`.
        per: whether there is one value of each per ``"layer"`` or per ``"neuron"``.
        shape: the neurons' features, which ``per="neuron"`` needs; it may broadcast, as ``(C, 1, 1)`` does.
    """

    def __init__(
        self,
        params: LIFParameters = LIFParameters(),
        *,
        synapse: bool = True,
        rule: Rule | str = "tssl",
        learn: Sequence[str] = (),
        per: str = "layer",
        shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(params, LIFParameters):
            raise TypeError(f"params must be LIFParameters, got {type(params).__name__}")
        self.params = params
        self.synapse = check_flag("synapse", synapse)
        self.rule = checked_rule(rule)
        self.constants = learnable(params, learn, per, shape)
        if not synapse and "tau_syn" in learn:
            raise ValueError(f"learn must leave out 'tau_syn' with synapse=False, got {learn!r}")

    def forward(self, x: Input, state: LIFState | None = None, return_state: bool = False) -> Output:
        """Spikes ``(T, B, *)`` of the weighted input ``x (T, B, *)``; with ``return_state`` the state too."""
        y = x.dense() if isinstance(x, PackedSpikes) else x
        learnt = self._learnt()
        options: dict[str, Any] = {"state": state, "synapse": self.synapse, "rule": self.rule, "learnt": learnt}
        return lif(y, self.params, return_state=True, **options) if return_state else lif(y, self.params, **options)

    def _learnt(self) -> LIFConstants | None:
        """The learnt constants as they are now; None if none are learnt."""
        return None if self.constants is None else self.constants()

    def weighted(self, x: Input) -> Input:
        """The input y of the neurons; layers with weights override this."""
        return x

    def extra_repr(self) -> str:
        return repr(self.params) if self.rule == DEFAULT else f"{self.params!r}, rule={self.rule!r}"


def each_step(x: Input, function: Callable[[Tensor], Tensor]) -> Input:
    """``function`` of ``x (T, B, *)``, computed once where all steps are the same."""
    if isinstance(x, StaticInput):
        return StaticInput(function(x.values[None]).squeeze(0), x.steps)
    return function(check_sequence("x", x.dense() if isinstance(x, PackedSpikes) else x))


class LearnableConstants(nn.Module):
    """Learnt constants of a layer's neurons. A layer makes this module where its ``learn`` names any. ::

        tau = 1 + exp(raw)                  so that alpha = 1 - 1/tau = sigmoid(raw) stays between 0 and 1
        threshold = exp(raw)

    Args:
        params: initial values.
        learn: which constants: any of ``"tau_mem"``, ``"tau_syn"``, ``"threshold"``.
        shape: shape of each, which broadcasts to the neurons' features: ``()`` is one value for the layer.

    Its parameters are ``raw_tau_mem`` and so on. A layer holds it as ``layer.constants``; ``layer.constants()`` returns
    the constants themselves. Weight decay pulls raw values to 0, so time constants to 2 and thresholds to 1: put
    ``layer.constants.parameters()`` into an optimizer group without weight decay.

    Raises:
        TypeError, ValueError: for an unknown or repeated name, or an initial time constant of 1 or infinity, which no
            raw value gives.

    The sigmoid for alpha is that of Fang et al., "Incorporating learnable membrane time constant to enhance learning of
    spiking neural networks", ICCV 2021.
    """

    def __init__(self, params: LIFParameters, learn: Sequence[str], shape: Sequence[int] = ()) -> None:
        super().__init__()
        if not isinstance(params, LIFParameters):
            raise TypeError(f"params must be LIFParameters, got {type(params).__name__}")
        for name in checked_learn(learn):
            value = getattr(params, name)
            if name != "threshold" and (value == 1 or math.isinf(value)):
                raise ValueError(f"{name} must be a finite number > 1 to be learnt, got {value!r}")
            raw = math.log(value if name == "threshold" else value - 1)
            self.register_parameter(f"raw_{name}", nn.Parameter(torch.full(tuple(shape), raw)))

    def forward(self) -> LIFConstants:
        """The constants as they are now, in float32 at least; None for those that are not learnt."""
        return LIFConstants(*(self._constant(name) for name in CONSTANTS))

    def _constant(self, name: str) -> Tensor | None:
        raw = getattr(self, f"raw_{name}", None)  # a parameter, or what a parametrization makes of one
        if raw is None:
            return None
        value = raw.to(torch.promote_types(raw.dtype, torch.float32)).exp()
        return value if name == "threshold" else 1 + value

    def extra_repr(self) -> str:
        return ", ".join(f"{name.removeprefix('raw_')}: {tuple(raw.shape)}" for name, raw in self.named_parameters())


def checked_learn(learn: object) -> tuple[str, ...]:
    """``learn`` as a tuple of names of constants, each once."""
    accepted = f"a sequence of names among {', '.join(map(repr, CONSTANTS))}"
    if isinstance(learn, str) or not isinstance(learn, Sequence):
        raise TypeError(f"learn must be {accepted}, got {learn!r}")
    if any(learn.count(name) > 1 or name not in CONSTANTS for name in learn):
        raise ValueError(f"learn must be {accepted}, each once, got {learn!r}")
    return tuple(learn)


def learnable(
    params: LIFParameters, learn: Sequence[str], per: str, shape: Sequence[int] | None
) -> LearnableConstants | None:
    """The constants that a layer learns, or None; ``shape`` is that of the neurons, if known."""
    check_choice("per", per, PER)
    if not checked_learn(learn):
        return None
    if per == "layer":
        return LearnableConstants(params, learn)
    if shape is None:
        raise ValueError("shape must be given with per='neuron': the features of the neurons, such as (100,)")
    return LearnableConstants(params, learn, check_shape("shape", shape))
