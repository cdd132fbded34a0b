"""Learnt constants and recurrent layers on a device: against the reference, and against the same layer on the CPU."""

import pytest
import torch
from comparing import relative_error
from judging import DTYPES, RESETS, draw_current, draw_gradient, name_of
from learning import NAMES, draw_constants, learnt_by_lif, learnt_by_reference

from tssl_triton import LIFConstants, LIFParameters, SpikingRecurrent
from tssl_triton.rules import SLAYER, STBP, TSSL

pytestmark = pytest.mark.gpu

RULES = [TSSL(), STBP("sigmoid", width=0.5), SLAYER()]


# Of 32-bit sums, and of gradients of y rounded to their type, as tests/operators/test_learnt.py has them.
ERRORS = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 2e-5 + 2**-11, torch.bfloat16: 2e-5 + 2**-8}


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("steps", [5, 20, 40])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_learnt_constants(dtype, steps, rule, reset):
    y, grad = draw_current((steps, 2, 9), dtype), draw_gradient((steps, 2, 9), dtype)
    params, constants = LIFParameters(reset=reset), draw_constants(9, torch.promote_types(dtype, torch.float32))
    there = LIFConstants(*(part.detach().cuda().requires_grad_() for part in constants))
    got, _ = learnt_by_lif(y.cuda(), grad.cuda(), there, params, rule)
    want = learnt_by_reference(y, grad, constants, params, rule)
    assert relative_error(got.spikes, want.spikes) == 0
    for name in ("current", *NAMES):
        assert relative_error(getattr(got, name), getattr(want, name)) < ERRORS[dtype], name


@pytest.mark.parametrize("learn", [(), NAMES], ids=["fixed", "learnt"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_recurrent_layers(rule, learn, monkeypatch):
    monkeypatch.setenv("TSSL_CPU", "eager")
    torch.manual_seed(0)
    layer = SpikingRecurrent(8, 70, bias=True, weight_scale=2.5, rule=rule, learn=learn).double()
    x, grad = draw_current((20, 3, 8)), draw_gradient((20, 3, 70))
    results = []
    for device in ("cpu", "cuda"):
        layer.to(device).zero_grad()
        leaf = x.to(device, copy=True).requires_grad_()
        spikes = layer(leaf)
        spikes.backward(grad.to(device))
        results.append([spikes.detach().cpu(), leaf.grad.cpu(), *(p.grad.cpu() for p in layer.parameters())])
    assert results[0][0].any()
    # Products sum in another order: no spike of these weights is near enough to the threshold to tell.
    assert torch.equal(results[0][0], results[1][0])
    for one, other in zip(*results, strict=True):
        assert relative_error(one, other) < 1e-10
