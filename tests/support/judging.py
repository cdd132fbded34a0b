"""A layer of neurons against the reference: inputs, the reference's answer, and how near ours must come to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from comparing import assert_close, to_float64
from torch import Tensor
from tssl_triton.reference import State, Trace, lif_backward, lif_forward, surrogate_backward

from tssl_triton import LIFParameters, LIFState, lif
from tssl_triton.rules import DEFAULT, SLAYER, STBP, TSSL, Rule

STEPS = [1, 2, 5, 31, 32, 33, 64, 100]
RESETS = ["zero", "subtract"]
WARMUPS = ["psc", "silent", "off"]
VARIANTS = ["released", "paper"]
ABLATIONS = [("no-intra", "psc"), ("no-leak", "psc"), ("no-leak", "off"), ("released", "always")]
"""Variants and warm-ups that leave a part of TSSL-BP out."""
SURROGATE_RULES = [
    STBP(width=0.9),
    STBP("triangular", width=1.5, reset_gradient="detached"),
    STBP("arctan", width=0.6),
    STBP("sigmoid", width=0.4, reset_gradient="detached"),
    STBP("fast-sigmoid", width=0.8),
    STBP("exponential", width=0.5),
    SLAYER(width=0.7, scale=1.2),
]
"""Each window, each way with the reset; edges of windows are not numbers that 16 bits hold."""


@dataclass(frozen=True)
class Tolerance:
    """How far a result may be from the reference, which is given the same, rounded, input.

    Args:
        relative: error over the neuron's largest wanted value.
        absolute: error that is allowed on top.
        margin: a neuron whose membrane comes this near to the threshold may spike or not. It, its spikes and its
            gradient, is left out and counted.
    """

    relative: float
    absolute: float
    margin: float


TOLERANCES = {
    # The same arithmetic: what is left is rounding, which 1/du and a hundred steps of carry magnify.
    torch.float64: Tolerance(relative=1e-12, absolute=0.0, margin=1e-12),
    # u is right to a few of its last places, 1e-6; kappa = 1/du multiplies that by up to 8, and so does rho kappa
    # at every spike of a train.
    torch.float32: Tolerance(relative=2e-5, absolute=1e-9, margin=2e-5),
    # Arithmetic is float32's; the gradient is then rounded to 11 bits, half a unit of the last place being 2^-11 of
    # a value. Below 2^-14 float16 has a fixed step of 2^-24.
    torch.float16: Tolerance(relative=2**-11 + 2e-5, absolute=2**-24, margin=2e-5),
    # As float16, with 8 bits. Triton's interpreter cuts off instead of rounding: a whole unit, 2^-7.
    torch.bfloat16: Tolerance(relative=2**-7 + 2e-5, absolute=1e-9, margin=2e-5),
}
DTYPES = list(TOLERANCES)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def draw_current(shape: Sequence[int], dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Weighted input ``(T, B, *)`` that makes some neurons fire often, some seldom and some never."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(shape[1:], generator=generator, dtype=torch.float64) * 0.6 + 0.3
    noise = torch.randn(tuple(shape), generator=generator, dtype=torch.float64) * 1.5
    return (mean + noise).to(dtype)


def draw_gradient(shape: Sequence[int], dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Incoming gradient ``(T, B, *)``."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64).to(dtype)


@dataclass(frozen=True)
class Answer:
    """What a layer of neurons returned: spikes, the gradient of its input, the state after the last step."""

    spikes: Tensor
    grad: Tensor
    state: LIFState


def run(
    y: Tensor,
    grad: Tensor,
    params: LIFParameters,
    state: LIFState | None = None,
    synapse: bool = True,
    rule: Rule | str = "tssl",
) -> Answer:
    """`tssl_triton.lif`, forward and backward."""
    y = y.detach().requires_grad_()
    spikes, after = lif(y, params, state=state, synapse=synapse, return_state=True, rule=rule)
    (grad_y,) = torch.autograd.grad(spikes, y, grad)
    return Answer(spikes.detach(), grad_y, after)


@dataclass(frozen=True)
class Verdict:
    """The reference's answer in float64, ``(T, B, *)``; which neurons, ``(B, *)``, can be judged by it; and what an
    error of each one's gradient is relative to."""

    trace: Trace
    grad: np.ndarray
    clear: np.ndarray
    scale: np.ndarray


def judge(
    y: Tensor,
    grad: Tensor,
    params: LIFParameters,
    state: LIFState | None = None,
    synapse: bool = True,
    rule: Rule = DEFAULT,
) -> Verdict:
    """The reference on the values that ``y``, ``grad`` and ``state`` hold after rounding to their dtype."""
    neuron = {
        "tau_mem": params.tau_mem,
        "tau_syn": params.tau_syn,
        "threshold": params.threshold,
        "reset": params.reset,
        "synapse": synapse,
    }
    start = None if state is None else State(*map(to_float64, state))
    trace = lif_forward(to_float64(y), state=start, **neuron)
    margin = TOLERANCES[y.dtype].margin
    unclear = np.abs(trace.membrane - params.threshold) <= margin

    if isinstance(rule, TSSL):
        options = {"max_slope": params.max_slope, "warmup": params.warmup, "variant": params.variant}
        reference = lif_backward(trace, to_float64(grad), **neuron, **options)
        scale = np.abs(reference).max(axis=0)
        # Beside the threshold two comparisons decide between unlike gradients: the rise of a spike with 0, and a with
        # the bound of warm-up.
        rise = trace.membrane - np.concatenate([trace.initial.rest[None], trace.rest[:-1]])
        unclear |= (trace.spikes == 1) & (np.abs(rise) <= margin)
        if params.warmup == "psc":
            unclear |= np.abs(trace.psc - 0.25 / params.tau_syn) <= margin / 10
    else:
        reference = surrogate_backward(trace, to_float64(grad), **neuron, **settings_of(rule))
        scale = np.abs(reference).max(axis=0)
        if isinstance(rule, STBP) and rule.surrogate == "rectangular":
            # The window's edge: f jumps there.
            edge = np.abs(trace.membrane - params.threshold) - 0.5 * rule.width
            unclear |= np.abs(edge) <= margin
        if isinstance(rule, STBP) and rule.surrogate == "triangular":
            # Near the window's end f is a difference of near numbers, whose rounding is that of larger ones.
            scale = np.maximum(scale, 0.02 / rule.width * np.abs(to_float64(grad)).max(axis=0))
    return Verdict(trace, reference, ~unclear.any(axis=0), scale)


def settings_of(rule: STBP | SLAYER) -> dict[str, Any]:
    """A surrogate rule as the reference takes it, whose windows are scaled from unit area."""
    if isinstance(rule, STBP):
        return {"surrogate": rule.surrogate, "width": rule.width, "reset_gradient": rule.reset_gradient}
    return {"surrogate": "exponential", "width": rule.width, "scale": 2 * rule.scale, "reset_gradient": "none"}


def assert_agrees(answer: Answer, verdict: Verdict, dtype: torch.dtype, unclear: float = 0.02) -> None:
    """Spikes equal, gradient and state within tolerance, for all clear neurons; few others."""
    clear = verdict.clear
    assert np.mean(~clear) <= unclear, f"{np.sum(~clear)} of {clear.size} neurons are too near the threshold"
    assert answer.spikes.dtype == answer.grad.dtype == dtype
    assert_close("spikes", to_float64(answer.spikes)[:, clear], verdict.trace.spikes[:, clear])
    assert_near("gradient", answer.grad, verdict.grad, dtype, clear, verdict.scale)
    held = torch.float64 if dtype == torch.float64 else torch.float32
    series = verdict.trace.current, verdict.trace.membrane, verdict.trace.psc
    states = zip(LIFState._fields, answer.state, verdict.trace.state, series, strict=True)
    for name, got, want, passed_through in states:
        assert got.dtype == held
        assert_near(f"state.{name}", got[None], want[None], held, clear, np.abs(passed_through).max(axis=0))


def assert_near(
    name: str,
    got: Tensor,
    want: np.ndarray,
    dtype: torch.dtype,
    clear: np.ndarray | slice = slice(None),
    scale: np.ndarray | None = None,
) -> None:
    """Fail unless each neuron's series ``(T, B, *)`` is within the tolerance of ``dtype``.

    ``scale``, ``(B, *)``, is what a relative error is relative to: the largest value of the neuron's series if not
    given.
    """
    tolerance = TOLERANCES[dtype]
    scale = np.abs(want).max(axis=0, initial=0.0) if scale is None else scale
    allowed = tolerance.relative * scale + tolerance.absolute
    # A series of zeros must be zeros.
    allowed = np.where(allowed > 0, allowed, 1e-100)
    got, want = to_float64(got) / allowed, want / allowed
    assert_close(f"{name}, in units of the error allowed in {name_of(dtype)}", got[:, clear], want[:, clear], atol=1.0)
