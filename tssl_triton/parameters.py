"""Constants of a spiking layer, checked on construction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Reset = Literal["zero", "subtract"]
WarmUp = Literal["psc", "silent", "off", "always"]
Variant = Literal["released", "paper", "no-intra", "no-leak"]

CONSTANTS = ("tau_mem", "tau_syn", "threshold")
"""Constants that can be learnt, in the order of the rows of a tensor of constants."""


@dataclass(frozen=True)
class LIFParameters:
    """Constants of a leaky integrate-and-fire neuron with a first-order synapse, and of its TSSL-BP gradient.

    Args:
        tau_mem: membrane time constant in time steps (1 ms), >= 1; the membrane decays by ``alpha = 1 - 1/tau_mem`` per
            step. ``math.inf``: no leak (an integrate-and-fire neuron).
        tau_syn: synaptic time constant in time steps, >= 1; the synapse decays by ``beta = 1 - 1/tau_syn`` per step.
        threshold: firing threshold, > 0; a neuron fires if its membrane potential is strictly above it.
        reset: ``"zero"`` sets the membrane to 0 after a spike (the authors' released program),
            ``"subtract"`` subtracts the threshold (the paper's text).
        max_slope: bound on the slope of spike time against membrane potential, dt_m/du, > 0.
        warmup: where the surrogate gradient of supplement 2.3 replaces the error: ``"psc"`` where the neuron's own
            postsynaptic current is below ``1/(4 tau_syn)``, ``"silent"`` for neurons without a spike in the whole
            window, ``"off"`` nowhere, ``"always"`` at every step.
        variant: ``"released"``: a step without a spike emits the error of the next spike through the leak, as in the
            released program. ``"paper"``: it emits no error (eq. (14)). For ablations, ``"no-intra"`` is ``"released"``
            without the intra-neuron term, and with ``"no-leak"`` a step without a spike neither emits an error nor
            carries one back in time.

    Raises:
        TypeError: if a number is not a real number or an option is not a string.
        ValueError: if a number is not finite or out of range, or an option is unknown.

    Source: Zhang & Li, NeurIPS 2020, eqs. (3)-(5), (11)-(14) and supplement 2.3.
    """

    tau_mem: float = 5.0
    tau_syn: float = 3.0
    threshold: float = 1.0
    reset: Reset = "zero"
    max_slope: float = 8.0
    warmup: WarmUp = "psc"
    variant: Variant = "released"

    def __post_init__(self) -> None:
        object.__setattr__(self, "tau_mem", checked_time_constant("tau_mem", self.tau_mem, or_infinite=True))
        object.__setattr__(self, "tau_syn", checked_time_constant("tau_syn", self.tau_syn))
        for name in ("threshold", "max_slope"):
            object.__setattr__(self, name, checked_positive(name, getattr(self, name)))
        for name, accepted in (("reset", Reset), ("warmup", WarmUp), ("variant", Variant)):
            checked_option(name, getattr(self, name), get_args(accepted))

    @property
    def alpha(self) -> float:
        """Decay of the membrane potential in one step."""
        return 1.0 - 1.0 / self.tau_mem

    @property
    def beta(self) -> float:
        """Decay of the synaptic current in one step."""
        return 1.0 - self.inv_tau_syn

    @property
    def inv_tau_syn(self) -> float:
        """Factor of the weighted input in the synaptic current."""
        return 1.0 / self.tau_syn


def checked_time_constant(name: str, value: object, or_infinite: bool = False) -> float:
    """``value`` as a float >= 1 (time steps), so that the decay ``1 - 1/tau`` is not negative."""
    if or_infinite and isinstance(value, float) and value == math.inf:
        return value
    number = _finite(name, value, ">= 1")
    if number < 1:
        raise ValueError(f"{name} must be a finite number >= 1 (time steps), got {number!r}")
    return number


def checked_positive(name: str, value: object) -> float:
    """``value`` as a finite float > 0."""
    number = _finite(name, value, "> 0")
    if number <= 0:
        raise ValueError(f"{name} must be a finite number > 0, got {number!r}")
    return number


def _finite(name: str, value: object, accepted: str) -> float:
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a real number {accepted}, got {value!r}")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number {accepted}, got {number!r}")
    return number


def checked_option(name: str, value: object, accepted: tuple[str, ...]) -> None:
    """Raise TypeError or ValueError unless ``value`` is one of the strings ``accepted``."""
    listed = ", ".join(repr(option) for option in accepted)
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {listed}, got {value!r}")
    if value not in accepted:
        raise ValueError(f"{name} must be one of {listed}, got {value!r}")
