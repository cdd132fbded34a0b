"""Neurons whose constants are learnt, each with its own, against the reference, which takes a neuron at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from comparing import to_float64
from judging import settings_of
from torch import Tensor
from tssl_triton.reference import (
    State,
    lif_backward,
    lif_constant_gradients,
    lif_forward,
    surrogate_backward,
    surrogate_constant_gradients,
)

from tssl_triton import LIFConstants, LIFParameters, LIFState, lif
from tssl_triton.rules import TSSL, Rule

NAMES = ("tau_mem", "tau_syn", "threshold")


class Learnt(NamedTuple):
    """Spikes ``(T, B, N)``, the gradient of y, and those of tau_mem, tau_syn and threshold, ``(N,)`` each."""

    spikes: Any
    current: Any
    tau_mem: Any
    tau_syn: Any
    threshold: Any


def draw_constants(neurons: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> LIFConstants:
    """tau_mem from 2 to 10, tau_syn from 1.5 to 5, threshold from 0.5 to 1.5, ``(N,)`` each."""
    generator = torch.Generator().manual_seed(500 + seed)
    low, high = (2.0, 1.5, 0.5), (10.0, 5.0, 1.5)
    return LIFConstants(
        *(
            (a + (b - a) * torch.rand(neurons, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
            for a, b in zip(low, high, strict=True)
        )
    )


def learnt_by_lif(
    y: Tensor,
    grad: Tensor,
    constants: LIFConstants,
    params: LIFParameters,
    rule: Rule,
    state: LIFState | None = None,
    synapse: bool = True,
) -> tuple[Learnt, LIFState]:
    """`tssl_triton.lif`, forward and backward, and the state after it."""
    leaf = y.detach().requires_grad_()
    spikes, after = lif(leaf, params, state=state, synapse=synapse, return_state=True, rule=rule, learnt=constants)
    return Learnt(spikes.detach(), *torch.autograd.grad(spikes, (leaf, *constants), grad)), after


def learnt_by_reference(
    y: Tensor,
    grad: Tensor,
    constants: LIFConstants,
    params: LIFParameters,
    rule: Rule,
    state: LIFState | None = None,
    synapse: bool = True,
) -> Learnt:
    """The same by the reference, in float64."""
    values, errors = to_float64(y), to_float64(grad)
    found = []
    for n in range(y.shape[2]):
        neuron = {name: float(part[n].detach()) for name, part in zip(NAMES, constants, strict=True)}
        neuron |= {"reset": params.reset, "synapse": synapse}
        start = None if state is None else State(*(to_float64(part)[:, n] for part in state))
        trace = lif_forward(values[..., n], state=start, **neuron)
        if isinstance(rule, TSSL):
            options = {"max_slope": params.max_slope, "warmup": params.warmup, "variant": params.variant}
            of_current, of_constants = lif_backward, lif_constant_gradients
        else:
            options = settings_of(rule)
            of_current, of_constants = surrogate_backward, surrogate_constant_gradients
        grad_y = of_current(trace, errors[..., n], **neuron, **options)
        sums = of_constants(trace, values[..., n], errors[..., n], **neuron, **options)
        found.append((trace.spikes, grad_y, *(part.sum() for part in sums)))
    return Learnt(*(np.stack(parts, axis=-1) for parts in zip(*found, strict=True)))
