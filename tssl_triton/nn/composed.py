"""A weighted spiking layer from its parts: a product of PyTorch's, then the neurons."""

from __future__ import annotations

from torch import Tensor

from tssl_triton.encoding import StaticInput
from tssl_triton.functional import LIFConstants, LIFState, lif
from tssl_triton.operators.records import recall
from tssl_triton.operators.registration import traced
from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import Rule

from . import chain as _chain
from . import products as _weighted
from .prepared import Neurons, on_cpu


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
) -> tuple[Tensor, LIFState | None]:
    """Spikes ``(T, B, *)`` of neurons whose input is ``function`` of x; with ``carry`` their state too.

    Neurons with ``learnt`` constants do not recompute, and what a compiler keeps is its choice.
    """
    values, steps = (x.values.unsqueeze(0), x.steps) if isinstance(x, StaticInput) else (x, len(x))
    if learnt is None and not traced() and (recompute or on_cpu(values.device)):
        link = _chain.Link(function, Neurons(steps, params, rule), recompute)
        chain = _chain.chain_of(link, values.shape, _chain.sized(weight))
        spikes, (after,) = _chain.run(chain, values, recall(values), [weight, bias], [state], carry)
        return spikes, after
    y = _weighted.weighted(function, values, weight, bias)
    current = StaticInput(y.squeeze(0), steps) if isinstance(x, StaticInput) else y
    if carry:
        return lif(current, params, state, return_state=True, rule=rule, learnt=learnt)
    return lif(current, params, state, rule=rule, learnt=learnt), None
