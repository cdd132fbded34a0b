"""The replay of neurons and their errors, against the reference and against the gradient of the operators."""

import pytest
import torch
from comparing import relative_error, to_float64
from judging import (
    ABLATIONS,
    RESETS,
    SURROGATE_RULES,
    VARIANTS,
    WARMUPS,
    assert_near,
    draw_current,
    draw_gradient,
    judge,
)
from learning import draw_constants, learnt_by_lif
from tssl_triton.reference import psc_backward

from tssl_triton import LIFConstants, LIFParameters, LIFState, StaticInput, lif
from tssl_triton.inspection import error_trace, membrane_trace, warming_up
from tssl_triton.rules import DEFAULT

pytestmark = pytest.mark.usefixtures("eager")

T, B, N = 33, 2, 60

#: Every learning rule: TSSL-BP by variant, warm-up and reset, and the other rules.
WAYS = [
    *[(DEFAULT, {"variant": variant, "warmup": warmup}) for variant in VARIANTS for warmup in WARMUPS],
    *[(DEFAULT, {"variant": variant, "warmup": warmup}) for variant, warmup in ABLATIONS],
    *[(rule, {}) for rule in SURROGATE_RULES],
]


def a_state(dtype):
    parts = draw_current((3, B, N), torch.float64, seed=7).abs()
    return LIFState(*(0.4 * parts).to(dtype))


@pytest.mark.parametrize("synapse", [True, False])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize(("rule", "settings"), WAYS, ids=str)
def test_traces_equal_the_reference_s(rule, settings, reset, synapse):
    params = LIFParameters(reset=reset, tau_mem=7.0, threshold=0.8, **settings)
    y, grad = draw_current((T, B, N)), draw_gradient((T, B, N))
    state = a_state(torch.float64)
    verdict = judge(y, grad, params, state, synapse, rule)
    trace = membrane_trace(y, params, state=state, synapse=synapse)
    error = error_trace(trace, grad, params, rule, synapse=synapse)
    for name in ("current", "membrane", "rest", "spikes", "psc"):
        assert_near(name, getattr(trace, name), getattr(verdict.trace, name), y.dtype, verdict.clear)
    assert_near("e", error.grad_current, verdict.grad, y.dtype, verdict.clear, verdict.scale)
    # The emitted error, filtered by the transpose of the synapse, is the reference's gradient.
    passed = psc_backward(error.emitted, params.tau_syn) if synapse else to_float64(error.emitted)
    assert_near("emitted", torch.from_numpy(passed), verdict.grad, y.dtype, verdict.clear, verdict.scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rule", "settings"), WAYS, ids=str)
def test_the_error_is_the_operator_s_gradient(rule, settings, dtype):
    params = LIFParameters(**settings)
    y = draw_current((T, B, N), dtype).requires_grad_()
    grad = draw_gradient((T, B, N), dtype)
    spikes, after = lif(y, params, return_state=True, rule=rule)
    (want,) = torch.autograd.grad(spikes, y, grad)
    trace = membrane_trace(y, params, spikes=spikes)
    got = error_trace(trace, grad, params, rule).grad_current
    # The same step in the same order: spikes, state and error are bit-identical, apart from one rounding to 16 bits.
    assert torch.equal(trace.spikes.to(dtype), spikes)
    assert torch.equal(membrane_trace(y, params).spikes, trace.spikes)
    for part, series in zip(after, (trace.current, trace.rest, trace.psc), strict=True):
        assert torch.equal(part, series[-1])
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(got.to(dtype), want)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize(("rule", "settings"), WAYS, ids=str)
def test_learnt_constants(rule, settings, reset):
    """Each neuron has its own constants; spikes, state and error equal the operator's."""
    params = LIFParameters(reset=reset, **settings)
    y, grad, constants = draw_current((T, B, N)), draw_gradient((T, B, N)), draw_constants(N)
    want, after = learnt_by_lif(y, grad, constants, params, rule, a_state(torch.float64))
    learnt = LIFConstants(*(part.detach() for part in constants))
    trace = membrane_trace(y, params, state=a_state(torch.float64), learnt=learnt)
    error = error_trace(trace, grad, params, rule, learnt=learnt)
    assert torch.equal(trace.spikes, want.spikes)
    assert torch.equal(torch.stack([trace.current[-1], trace.rest[-1], trace.psc[-1]]), torch.stack(after))
    assert relative_error(error.grad_current, want.current) < 1e-12
    one = membrane_trace(y[:, 0, :1], params, state=LIFState(*(part[0, :1] for part in a_state(torch.float64))),
                         learnt=LIFConstants(*(part[:1] for part in learnt)))  # fmt: skip
    assert torch.equal(one.membrane, trace.membrane[:, 0, :1])


def test_delta_and_what_is_emitted():
    y, grad = draw_current((T, B, N)), draw_gradient((T, B, N))
    params = LIFParameters()
    trace = membrane_trace(y, params)
    error, warm = error_trace(trace, grad, params), warming_up(trace, params)
    assert warm.any()
    assert not warm.all()
    assert torch.equal(error.emitted[~warm], error.delta[~warm])
    assert (error.emitted[warm] != error.delta[warm]).any()
    # At a step without a spike delta is the next one's, through the leak.
    silent = trace.spikes[:-1] == 0
    assert torch.equal(error.delta[:-1][silent], (params.alpha * error.delta[1:])[silent])
    # The last step has no next one: a spike's delta is G over the rise, which is bounded.
    fired = trace.spikes[-1] == 1
    kappa = (1 / trace.rise[-1]).clamp(max=params.max_slope)
    assert torch.allclose(error.delta[-1][fired], (kappa * grad[-1])[fired], rtol=1e-12)


def test_where_warm_up_stands_in():
    trace = membrane_trace(draw_current((T, B, N)), LIFParameters())
    never = (trace.spikes == 0).all(0)
    assert never.any()
    for warmup, want in (("off", False), ("always", True), ("silent", never)):
        params = LIFParameters(warmup=warmup)
        assert torch.equal(warming_up(trace, params), torch.as_tensor(want).expand(T, B, N))
    assert torch.equal(warming_up(trace, LIFParameters()), trace.psc < 1 / 12)
    assert not warming_up(trace, LIFParameters(), "stbp").any()


def test_a_static_input_is_its_steps_spelled_out():
    y = draw_current((B, N), torch.float32)
    got = membrane_trace(StaticInput(y, T), LIFParameters())
    for one, other in zip(got, membrane_trace(y.expand(T, B, N), LIFParameters()), strict=True):
        assert torch.equal(one, other)


def test_given_spikes_decide_the_reset():
    y, params = torch.full((2, 1, 1), 6.0), LIFParameters()
    # u[0] = 2 is above the threshold; a layer that did not fire there keeps its membrane.
    trace = membrane_trace(y, params, spikes=torch.zeros(2, 1, 1))
    assert trace.rest.flatten().tolist() == pytest.approx([2.0, 0.8 * 2.0 + 2.0 * 5 / 3])
    assert not trace.spikes.any()
    assert membrane_trace(y, params).rest.flatten().tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"y": [1.0]}, TypeError, "y must be a tensor"),
        ({"y": torch.zeros(3)}, ValueError, "y must be time-major"),
        ({"params": 5}, TypeError, "params must be LIFParameters, got int"),
        ({"spikes": torch.zeros(3, 2, 5)}, ValueError, r"spikes must have shape \(3, 2, 4\), got \(3, 2, 5\)"),
        ({"state": 0.0}, TypeError, "state must be a LIFState"),
    ],
)
def test_errors_of_the_membrane(change, error, message):
    with pytest.raises(error, match=message):
        membrane_trace(**{"y": torch.zeros(3, 2, 4), "params": LIFParameters(), **change})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"trace": torch.zeros(3, 2, 4)}, TypeError, "trace must be a MembraneTrace, got Tensor"),
        ({"grad_spikes": torch.zeros(3, 2)}, ValueError, r"grad_spikes must have shape \(3, 2, 4\)"),
        ({"params": 5}, TypeError, "params must be LIFParameters, got int"),
        ({"rule": "hebb"}, ValueError, "rule must be one of"),
    ],
)
def test_errors_of_the_error(change, error, message):
    trace = membrane_trace(torch.zeros(3, 2, 4), LIFParameters())
    with pytest.raises(error, match=message):
        error_trace(**{"trace": trace, "grad_spikes": torch.zeros(3, 2, 4), "params": LIFParameters(), **change})
