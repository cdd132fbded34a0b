"""A weighted spiking layer from its parts: a product of PyTorch's, then the neurons."""

from __future__ import annotations

from torch import Tensor

from . import _chain, _pooled_ops, _weighted
from ._neurons import Neurons, on_cpu, traced
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

    Neurons with ``learnt`` constants do not recompute, and what a compiler keeps is its choice. With ``pool`` the
    spikes are pooled.
    """
    values, steps = (x.values.unsqueeze(0), x.steps) if isinstance(x, StaticInput) else (x, len(x))
    if learnt is None and not traced() and (recompute or on_cpu(values.device)):
        shape = function.shape(values.shape, weight.shape)
        apart = pool is not None and not _pooled_ops.fits(shape, values.device, pool)
        link = _chain.Link(function, Neurons(steps, params, rule, None if apart else pool), recompute)
        spikes, (after,) = _chain.run([link], values, [weight, bias], [state], carry)
        return (_weighted.pooled(spikes, pool) if apart and pool is not None else spikes), after
    y = _weighted.weighted(function, values, weight, bias)
    current = StaticInput(y.squeeze(0), steps) if isinstance(x, StaticInput) else y
    if carry:
        spikes, after = lif(current, params, state, return_state=True, rule=rule, learnt=learnt)
    else:
        spikes, after = lif(current, params, state, rule=rule, learnt=learnt), None
    return (spikes if pool is None else _weighted.pooled(spikes, pool)), after
