"""STBP and SLAYER on the neuron's own forward, and the ablations of TSSL-BP, against the reference in float64."""

import itertools

import numpy as np
import pytest
import torch
from judging import (
    ABLATIONS,
    DTYPES,
    RESETS,
    STEPS,
    SURROGATE_RULES,
    assert_agrees,
    assert_near,
    draw_current,
    draw_gradient,
    judge,
    name_of,
    run,
)

from tssl_triton import LIFParameters, lif
from tssl_triton.encoding import static
from tssl_triton.rules import SLAYER, STBP, TSSL

pytestmark = [pytest.mark.implementation, pytest.mark.usefixtures("poisoned", "eager")]

WIDEST = STBP("arctan", width=0.6)


def check(shape, dtype, params, rule, synapse=True, seed=0, state=None):
    y, grad = draw_current(shape, dtype, seed), draw_gradient(shape, dtype, seed)
    verdict = judge(y, grad, params, state, synapse, rule)
    assert verdict.trace.spikes.any()
    assert not verdict.trace.spikes.all()
    assert verdict.grad.any()
    assert_agrees(run(y, grad, params, state, synapse, rule), verdict, dtype)


def name_of_rule(rule):
    return "-".join(str(getattr(rule, field, "")) for field in ("name", "surrogate", "reset_gradient")).rstrip("-")


def every_setting():
    """All combinations; by default each rule with each reset, types by turns, and one rule in every type and length."""
    for (number, rule), reset, T, dtype in itertools.product(enumerate(SURROGATE_RULES), RESETS, STEPS, DTYPES):
        turn = {("zero", 33): number, ("subtract", 5): number + 1}.get((reset, T))
        in_turn = turn is not None and DTYPES[turn % len(DTYPES)] == dtype
        shown = in_turn or (number == 0 and reset == "zero" and T <= 33)
        marks = [] if shown else pytest.mark.slow
        yield pytest.param(dtype, T, reset, rule, id=f"{name_of(dtype)}-{T}-{reset}-{name_of_rule(rule)}", marks=marks)


@pytest.mark.parametrize(("dtype", "T", "reset", "rule"), list(every_setting()))
def test_every_rule(dtype, T, reset, rule):
    check((T, 3, 37), dtype, LIFParameters(reset=reset), rule, seed=T)


@pytest.mark.parametrize("rule", [WIDEST, SLAYER()], ids=name_of_rule)
@pytest.mark.parametrize("shape", [(1, 127), (1, 129), (7, 53), (3, 4, 5, 6), (2, 3, 5, 1, 9), (1, 1)], ids=str)
def test_shapes(shape, rule):
    y, grad = draw_current((9, *shape)), draw_gradient((9, *shape))
    assert_agrees(run(y, grad, LIFParameters(), rule=rule), judge(y, grad, LIFParameters(), rule=rule), y.dtype)


@pytest.mark.parametrize("T", [1, 5, 33])
def test_no_neurons(T):
    y = torch.empty(T, 0, 3, requires_grad=True)
    lif(y, rule="stbp").sum().backward()
    assert y.grad.shape == y.shape


@pytest.mark.parametrize(
    "constants",
    [
        {"tau_mem": 1.0, "tau_syn": 3.0},
        {"tau_mem": 5.0, "tau_syn": 1.0},
        {"tau_mem": 2.3, "tau_syn": 7.1, "threshold": 0.4},
    ],
    ids=str,
)
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("rule", [WIDEST, SLAYER()], ids=name_of_rule)
def test_constants(rule, reset, constants):
    check((13, 3, 37), torch.float64, LIFParameters(reset=reset, **constants), rule)


@pytest.mark.parametrize("rule", SURROGATE_RULES, ids=name_of_rule)
@pytest.mark.parametrize("dtype", [torch.float64, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=name_of)
def test_without_synapse(dtype, rule):
    check((13, 3, 37), dtype, LIFParameters(), rule, synapse=False)


@pytest.mark.parametrize("rule", [SURROGATE_RULES[0], WIDEST, SLAYER()], ids=name_of_rule)
@pytest.mark.parametrize("T", [1, 5, pytest.param(17, marks=pytest.mark.slow), 33])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=name_of)
def test_one_input_for_all_steps(dtype, T, rule):
    params = LIFParameters(reset="subtract")
    y = (0.4 * draw_current((1, 3, 37), dtype, seed=T)[0]).requires_grad_()
    grad = draw_gradient((T, 3, 37), dtype, seed=T)
    verdict = judge(y.detach().expand(T, 3, 37), grad, params, rule=rule)
    lif(static(y, T), params, rule=rule).backward(grad)
    total = verdict.grad.sum(axis=0)
    scale = np.maximum(np.abs(total), np.abs(verdict.grad).max(axis=0))
    assert_near("gradient", y.grad[None], total[None], dtype, verdict.clear, scale)


@pytest.mark.parametrize("rule", SURROGATE_RULES, ids=name_of_rule)
@pytest.mark.parametrize("reset", RESETS)
def test_windows_with_carried_state(reset, rule):
    params, state = LIFParameters(reset=reset), None
    y, grad = draw_current((20, 3, 11)), draw_gradient((20, 3, 11))
    for part, part_grad in zip(y.split([7, 12, 1]), grad.split([7, 12, 1]), strict=True):
        answer = run(part, part_grad, params, state, rule=rule)
        assert_agrees(answer, judge(part, part_grad, params, state, rule=rule), torch.float64)
        state = answer.state


@pytest.mark.parametrize("rule", [STBP("sigmoid"), SLAYER()], ids=name_of_rule)
def test_memory_orders(rule):
    """A batch-first input, and a gradient that is one number, expanded."""
    y = draw_current((9, 4, 6)).transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    lif(y, rule=rule).sum().backward()
    grad = torch.ones(9, 4, 6, dtype=torch.float64)
    assert_near("gradient", y.grad, judge(y, grad, LIFParameters(), rule=rule).grad, torch.float64)


@pytest.mark.parametrize(("variant", "warmup"), ABLATIONS)
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("T", [5, pytest.param(33, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_ablations(dtype, T, reset, variant, warmup):
    check((T, 3, 37), dtype, LIFParameters(reset=reset, variant=variant, warmup=warmup), TSSL(), seed=T)


def test_forward_does_not_depend_on_the_rule():
    y, grad = draw_current((33, 3, 37), torch.float32), draw_gradient((33, 3, 37), torch.float32)
    answers = [run(y, grad, LIFParameters(), rule=rule) for rule in ("tssl", "stbp", "slayer")]
    for answer in answers[1:]:
        assert torch.equal(answer.spikes, answers[0].spikes)
        assert all(map(torch.equal, answer.state, answers[0].state))
        assert not torch.equal(answer.grad, answers[0].grad)


def test_what_is_judged_can_fail():
    """The tolerances tell each rule from its neighbours."""
    y, grad = draw_current((33, 3, 37)), draw_gradient((33, 3, 37))
    answer = run(y, grad, LIFParameters(), rule=STBP("exponential"))
    others = [
        STBP("exponential", width=0.99),
        STBP("exponential", reset_gradient="detached"),
        SLAYER(scale=0.5),
        TSSL(),
    ]
    for rule in (*others, STBP(), STBP("sigmoid")):
        with pytest.raises(AssertionError):
            assert_agrees(answer, judge(y, grad, LIFParameters(), rule=rule), torch.float64)
    ablated = run(y, grad, LIFParameters(warmup="off", variant="no-leak"))
    for variant in ("released", "paper", "no-intra"):
        with pytest.raises(AssertionError):
            assert_agrees(ablated, judge(y, grad, LIFParameters(warmup="off", variant=variant)), torch.float64)
