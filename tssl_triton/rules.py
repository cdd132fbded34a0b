"""Learning rules: the derivative of a spike in the backward pass. The forward pass is the same for all rules.

==========  ==========================================================================================================
``TSSL``    differentiates spike times, with the paper's table phi; its settings are in `LIFParameters`
``STBP``    replaces the derivative of a spike by a window around the threshold; everything else is exact
``SLAYER``  the same with an exponential window, and without the gradient through the reset
==========  ==========================================================================================================

A ``rule`` argument also accepts the name in lower case, for the rule with its defaults.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

from tssl_triton.parameters import Settings, checked_option, checked_positive

Window = Literal["rectangular", "triangular", "arctan", "sigmoid", "fast-sigmoid", "exponential"]
ResetGradient = Literal["full", "detached"]

WINDOWS: tuple[str, ...] = get_args(Window)

PEAKS = {
    "rectangular": 1.0,
    "triangular": 1.0,
    "arctan": 1.0 / math.pi,
    "sigmoid": 0.25,
    "fast-sigmoid": 0.5,
    "exponential": 0.5,
}
"""Maximum of each window with width 1 and area 1; it is at the threshold."""


class Surrogate(NamedTuple):
    """A surrogate-gradient rule in the form that kernels take; see `tssl_triton.kernels.surrogate`."""

    window: str
    """Shape of the window f(u) that replaces ds/du."""
    width: float
    """Its width, in units of membrane potential."""
    peak: float
    """Its maximum, at the threshold."""
    reset_gradient: str
    """Gradient through the reset: ``"full"``, ``"detached"`` or ``"none"``."""


@dataclass(frozen=True)
class TSSL(Settings):
    """TSSL-BP, Zhang & Li (NeurIPS 2020): see `tssl_triton.functional.lif` and `LIFParameters`."""

    name: ClassVar[str] = "tssl"

    @property
    def surrogate_gradient(self) -> Surrogate | None:
        """None: this rule differentiates spike times."""
        return None


@dataclass(frozen=True)
class STBP(Settings):
    """Backpropagation through time with a surrogate for the derivative of a spike. ::

        delta[t] = f(u[t]) (G[t] - r[t] alpha delta[t+1]) + k[t] alpha delta[t+1]

    with ``k = 1 - s[t]``, ``r = u[t]`` for reset to zero, and ``k = 1``, ``r = threshold`` for reset by subtraction.
    Windows f have unit area and are centred on the threshold; with ``z = (u - threshold) / width`` they are

    ==================  ==========================================================
    ``rectangular``     1 / width where abs(z) < 1/2, else 0
    ``triangular``      (1 - abs(z)) / width where abs(z) < 1, else 0
    ``arctan``          1 / (pi width (1 + z^2))
    ``sigmoid``         sigma(z) (1 - sigma(z)) / width
    ``fast-sigmoid``    1 / (2 width (1 + abs(z))^2)
    ``exponential``     exp(-abs(z)) / (2 width)
    ==================  ==========================================================

    Args:
        surrogate: name of the window.
        width: of the window in units of membrane potential, > 0.
        reset_gradient: ``"full"`` also differentiates the spike in the reset, for exact backpropagation through time of
            the smoothed model; ``"detached"`` treats this spike as a constant, r = 0.

    Raises:
        TypeError, ValueError: if an argument is invalid; the message names it.

    Source: Wu, Deng, Li, Zhu & Shi, Frontiers in Neuroscience 12:331 (2018), for rectangle, triangle and sigmoid.
    Arctan: Fang et al., ICCV 2021 (its alpha is 2 / (pi width)). Fast sigmoid: Zenke & Ganguli, Neural Computation 30
    (2018), with height 1.
    """

    name: ClassVar[str] = "stbp"
    surrogate: Window = "rectangular"
    width: float = 1.0
    reset_gradient: ResetGradient = "full"

    def __post_init__(self) -> None:
        checked_option("surrogate", self.surrogate, WINDOWS)
        object.__setattr__(self, "width", checked_positive("width", self.width))
        checked_option("reset_gradient", self.reset_gradient, get_args(ResetGradient))
        super().__post_init__()

    @property
    def surrogate_gradient(self) -> Surrogate | None:
        """The window, its maximum, and the gradient through the reset."""
        return Surrogate(self.surrogate, self.width, PEAKS[self.surrogate] / self.width, self.reset_gradient)


@dataclass(frozen=True)
class SLAYER(Settings):
    """Spike layer error reassignment in time. ::

        delta[t] = rho[t] G[t] + alpha delta[t+1],   rho[t] = scale / width exp(-abs(u[t] - threshold) / width)

    rho is the probability density of a change of the spike's state; the escape rate decays exponentially with the
    distance from the threshold. The error is carried back in time by the kernels of membrane and synapse alone, not
    through the refractory response, here the reset.

    Args:
        width: distance from the threshold over which rho decays by a factor e, > 0, in units of membrane potential.
        scale: factor on rho, > 0.

    Raises:
        TypeError, ValueError: if an argument is invalid; the message names it.

    Source: Shrestha & Orchard, NeurIPS 2018. Width and scale are tauRho (relative to the threshold there) and scaleRho
    of the authors' released program. As in that program, rho has the factor scale / width and thus area 2 scale, unlike
    the windows of `STBP`.
    """

    name: ClassVar[str] = "slayer"
    width: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", checked_positive("width", self.width))
        object.__setattr__(self, "scale", checked_positive("scale", self.scale))
        super().__post_init__()

    @property
    def surrogate_gradient(self) -> Surrogate | None:
        """The exponential window, without gradient through the reset."""
        return Surrogate("exponential", self.width, self.scale / self.width, "none")


Rule = TSSL | STBP | SLAYER

DEFAULT = TSSL()

BY_NAME: dict[str, type[Rule]] = {kind.name: kind for kind in (TSSL, STBP, SLAYER)}
RULES: tuple[str, ...] = tuple(BY_NAME)


def checked_rule(rule: object) -> Rule:
    """``rule``, or the rule with this name and its defaults.

    Raises:
        TypeError: if ``rule`` is neither a rule nor a string.
        ValueError: if the name is unknown.
    """
    if isinstance(rule, (TSSL, STBP, SLAYER)):
        return rule
    accepted = f"{', '.join(map(repr, RULES))} or a rule such as STBP(surrogate='arctan')"
    if not isinstance(rule, str):
        raise TypeError(f"rule must be one of {accepted}, got {rule!r}")
    if rule not in BY_NAME:
        raise ValueError(f"rule must be one of {accepted}, got {rule!r}")
    return BY_NAME[rule]()
