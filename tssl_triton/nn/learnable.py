"""Time constants and thresholds as parameters of a layer, in variables that may take any value."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tssl_triton._checks import check_choice, check_shape
from tssl_triton.cpu.learnt import CONSTANTS
from tssl_triton.functional import LIFConstants
from tssl_triton.parameters import LIFParameters

PER = ("layer", "neuron")


class LearnableConstants(nn.Module):
    """Constants of a layer's neurons that are learnt; the layers make it where their ``learn`` names any. ::

        tau = 1 + exp(raw)                  so that alpha = 1 - 1/tau = sigmoid(raw) stays between 0 and 1
        threshold = exp(raw)

    Args:
        params: initial values.
        learn: which constants: any of ``"tau_mem"``, ``"tau_syn"``, ``"threshold"``.
        shape: shape of each, which broadcasts to the neurons' features: ``()`` is one value for the layer.

    Its parameters are ``raw_tau_mem`` and so on. A layer holds it as ``layer.constants``; ``layer.constants()`` gives
    the constants themselves. Weight decay draws raw values to 0, a time constant to 2 and a threshold to 1; give
    ``layer.constants.parameters()`` to an optimizer's group without it.

    Raises:
        TypeError, ValueError: for a name that is none of these or comes twice, or an initial time constant of 1 or
            without bound, which no raw value stands for.

    alpha as a sigmoid is that of Fang et al., "Incorporating learnable membrane time constant to enhance learning of
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
        """The constants as they are now; None for those that are not learnt. At least float32, whatever is stored."""
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
    """The constants that a layer learns, None if it learns none; ``shape`` is that of the neurons, if it is known."""
    check_choice("per", per, PER)
    if not checked_learn(learn):
        return None
    if per == "layer":
        return LearnableConstants(params, learn)
    if shape is None:
        raise ValueError("shape must be given with per='neuron': the features of the neurons, such as (100,)")
    return LearnableConstants(params, learn, check_shape("shape", shape))
