"""A weighted spiking layer from its parts: a product of PyTorch's, then the neurons."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _pooled_ops, _recompute, _weighted
from ._pooling import SumPool
from .encoding import StaticInput
from .functional import LIFConstants, LIFState, lif
from .parameters import LIFParameters
from .rules import Rule


def composed(
    x: Tensor | StaticInput,
    function: _weighted.Map,
    weight: Tensor,
    bias: Tensor | None,
    params: LIFParameters,
    state: LIFState | None,
    recompute: bool,
    carry: bool,
    rule: Rule,
    learnt: LIFConstants | None = None,
    pool: SumPool | None = None,
) -> tuple[Tensor, LIFState | None]:
    """Spikes ``(T, B, *)`` of neurons whose input is ``function`` of x; with ``carry`` their state too.

    Neurons with ``learnt`` constants do not recompute. With ``pool`` the spikes are pooled.
    """
    values, steps = (x.values[None], x.steps) if isinstance(x, StaticInput) else (x, len(x))
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (values, weight, bias))
    if recompute and learns:
        layer = _recompute.Layer(function, steps, True, params, rule)
        spikes, after = _recompute.run(layer, values, weight, bias, state, carry)
    else:
        y = _weighted.weighted(function, values, weight, bias)
        current = StaticInput(y.squeeze(0), steps) if isinstance(x, StaticInput) else y
        if pool is not None and learnt is None and _pooled_ops.fits(y, pool):
            return _pooled_ops.pooled_lif(current, params, state, rule, pool, carry)
        if carry:
            spikes, after = lif(current, params, state, return_state=True, rule=rule, learnt=learnt)
        else:
            spikes, after = lif(current, params, state, rule=rule, learnt=learnt), None
    return spikes if pool is None else _weighted.pooled(spikes, pool), after
