"""``torch.library.opcheck``: schema, fake tensors, autograd registration and tracing of each operator."""

import pytest
import torch

from tssl_triton import LIFParameters
from tssl_triton.operators import lif_backward, lif_forward, pack, psc_filter, unpack, write_settings
from tssl_triton.rules import SLAYER, STBP, TSSL

pytestmark = pytest.mark.usefixtures("eager")

RULES = {rule.name: write_settings(LIFParameters(), rule) for rule in (TSSL(), STBP(width=0.9), SLAYER())}


def contiguous(*shape):
    return torch.randn(shape)


def permuted(*shape):
    """Rows that are dense in another order of their axes."""
    return torch.randn(shape[0], *reversed(shape[1:])).movedim(1, -1)


def strided(*shape):
    """Rows that are not dense."""
    return torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2]


LAYOUTS = pytest.mark.parametrize("drawn", [contiguous, permuted, strided], ids=lambda layout: layout.__name__)


@LAYOUTS
@pytest.mark.parametrize("steps", [5, 40])
@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_lif_forward(rule, steps, carried, drawn):
    y = drawn(steps, 2, 7).requires_grad_()
    state = torch.rand(3, 2, 7) if carried else None
    torch.library.opcheck(lif_forward.registered, (y, None, state, RULES[rule], steps, True, True, carried, None))


@LAYOUTS
def test_lif_forward_of_a_static_input_without_gradient(drawn):
    y = drawn(1, 2, 7)
    torch.library.opcheck(lif_forward.registered, (y, None, None, RULES["tssl"], 5, True, False, False, None))


@LAYOUTS
@pytest.mark.parametrize("rule", ["tssl", "stbp"])
@pytest.mark.parametrize("carried", [False, True])
def test_learnt_constants(rule, carried, drawn):
    y = drawn(10, 2, 7).requires_grad_()
    constants = torch.stack([torch.full((2, 7), value) for value in (5.0, 3.0, 1.0)]).requires_grad_()
    state = drawn(3, 2, 7) if carried else None
    arguments = (y, constants, state, RULES[rule], 10, True, True, carried, None)
    torch.library.opcheck(lif_forward.registered, arguments)
    with torch.no_grad():
        _, words, checkpoints, _ = lif_forward(*arguments)
    kept = y.detach(), constants.detach(), words, checkpoints, state
    torch.library.opcheck(lif_backward.registered, (drawn(10, 2, 7), *kept, RULES[rule], True))


@pytest.mark.parametrize("of_y", [contiguous, permuted, strided], ids=lambda layout: layout.__name__)
@LAYOUTS
@pytest.mark.parametrize("rule", RULES)
def test_lif_backward(rule, drawn, of_y):
    y = of_y(10, 2, 7)
    _, words, checkpoints, _ = lif_forward(y, None, None, RULES[rule], 10, True, True, False, None)
    arguments = (drawn(10, 2, 7), y, None, words, checkpoints, None, RULES[rule], True)
    torch.library.opcheck(lif_backward.registered, arguments)
    mixed = (arguments[0], y, None, words.contiguous(), checkpoints.contiguous(), None, RULES[rule], True)
    for one, other in zip(lif_backward(*arguments), lif_backward(*mixed), strict=True):
        assert torch.equal(one, other)


@LAYOUTS
@pytest.mark.parametrize("reverse", [False, True])
def test_psc_filter(reverse, drawn):
    torch.library.opcheck(psc_filter.registered, (drawn(5, 2, 7).requires_grad_(), None, 3.0, reverse, False))
    torch.library.opcheck(psc_filter.registered, (drawn(5, 2, 7), drawn(1, 2, 7), 3.0, reverse, True))


@LAYOUTS
def test_packing(drawn):
    spikes = (drawn(40, 2, 7) > 0).float()
    torch.library.opcheck(pack.registered, (spikes, torch.int32))
    torch.library.opcheck(unpack.registered, (pack(spikes, torch.int32), 40, torch.float32))
