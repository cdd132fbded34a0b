"""The reference's neuron: recurrences, resets, state and edge cases."""

import numpy as np
import pytest
from comparing import assert_close
from tssl_triton.reference import State, lif_forward, psc, psc_backward

PARAMETERS = {"tau_mem": 5.0, "tau_syn": 3.0, "threshold": 1.0}
RESETS = ["zero", "subtract"]


def current(seed, shape):
    """Input that makes a good share of the neurons fire, some often, some never."""
    rng = np.random.default_rng(seed)
    return rng.normal(1.0, 1.5, shape) + rng.normal(0.0, 1.0, shape[1:])


def test_three_steps_by_hand_with_synapse():
    # alpha = beta = 1/2, threshold 1, input 4, 1, 0, reset to zero.
    # t = 0: i = 4/2 = 2;             u = 2;             spike, v = 0;     a = 1/2
    # t = 1: i = 2/2 + 1/2 = 3/2;     u = 3/2;           spike, v = 0;     a = 1/4 + 1/2 = 3/4
    # t = 2: i = 3/4;                 u = 3/4;           no spike, v = 3/4; a = 3/8
    trace = lif_forward(np.array([[4.0], [1.0], [0.0]]), tau_mem=2, tau_syn=2, threshold=1)
    assert trace.current.ravel().tolist() == [2, 1.5, 0.75]
    assert trace.membrane.ravel().tolist() == [2, 1.5, 0.75]
    assert trace.spikes.ravel().tolist() == [1, 1, 0]
    assert trace.rest.ravel().tolist() == [0, 0, 0.75]
    assert trace.psc.ravel().tolist() == [0.5, 0.75, 0.375]
    assert [float(part[0]) for part in trace.state] == [0.75, 0.75, 0.375]


def test_three_steps_by_hand_with_reset_by_subtraction():
    # The same input; the first spike leaves v = 2 - 1 = 1.
    # t = 1: i = 3/2; u = 1/2 + 3/2 = 2;    spike, v = 1
    # t = 2: i = 3/4; u = 1/2 + 3/4 = 5/4;  spike, v = 1/4
    trace = lif_forward(np.array([[4.0], [1.0], [0.0]]), tau_mem=2, tau_syn=2, threshold=1, reset="subtract")
    assert trace.membrane.ravel().tolist() == [2, 2, 1.25]
    assert trace.rest.ravel().tolist() == [1, 1, 0.25]
    assert trace.spikes.ravel().tolist() == [1, 1, 1]


@pytest.mark.parametrize("reset", RESETS)
def test_membrane_exactly_at_threshold_does_not_fire(reset):
    trace = lif_forward([[1.0]], tau_mem=2, tau_syn=1, threshold=1, reset=reset)
    assert trace.membrane.item() == 1
    assert trace.spikes.item() == 0
    assert trace.rest.item() == 1


@pytest.mark.parametrize("reset", RESETS)
def test_spike_at_every_step_and_no_spike_at_all(reset):
    always = lif_forward(np.full((7, 2), 100.0), synapse=False, reset=reset, **PARAMETERS)
    never = lif_forward(np.full((7, 2), -1.0), synapse=False, reset=reset, **PARAMETERS)
    assert always.spikes.all()
    assert not never.spikes.any()
    assert not never.psc.any()
    # Without a spike the two resets are one: the membrane is the plain leaky sum of the current.
    leaky = [sum(-(0.8**n) for n in range(t + 1)) for t in range(7)]
    assert_close("membrane", never.membrane[:, 0], leaky, rtol=1e-14)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("synapse", [True, False])
@pytest.mark.parametrize("T", [1, 5, 33])
def test_trace_satisfies_its_equations(reset, synapse, T):
    y = current(1, (T, 2, 3, 2))
    t = lif_forward(y, reset=reset, synapse=synapse, **PARAMETERS)

    def before(series):
        return np.concatenate([np.zeros_like(series[:1]), series[:-1]])

    alpha, beta = 4 / 5, 2 / 3
    assert_close("i", t.current, beta * before(t.current) + y / 3 if synapse else y, atol=1e-14)
    assert_close("u", t.membrane, alpha * before(t.rest) + t.current, atol=1e-14)
    assert np.array_equal(t.spikes, t.membrane > 1)
    after_spike = 0 * t.membrane if reset == "zero" else t.membrane - 1
    assert_close("v", t.rest, np.where(t.spikes == 1, after_spike, t.membrane))
    assert_close("a", t.psc, psc(t.spikes, 3.0))


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("synapse", [True, False])
def test_windows_with_state_equal_one_run(reset, synapse):
    y = current(2, (21, 3, 4))
    whole = lif_forward(y, reset=reset, synapse=synapse, **PARAMETERS)
    state, windows = None, []
    for window in np.split(y, [7, 20]):
        trace = lif_forward(window, reset=reset, synapse=synapse, state=state, **PARAMETERS)
        state = trace.state
        windows.append(trace)
    for name in ("current", "membrane", "rest", "spikes", "psc"):
        joined = np.concatenate([getattr(trace, name) for trace in windows])
        assert np.array_equal(joined, getattr(whole, name)), name
    assert all(np.array_equal(a, b) for a, b in zip(state, whole.state, strict=True))


def test_input_of_any_type_is_cast_to_float64_once():
    trace = lif_forward(current(3, (4, 5)).astype(np.float32), **PARAMETERS)
    assert all(series.dtype == np.float64 for series in trace[:5])
    assert trace.current.shape == (4, 5)


def test_psc_is_the_kernel_summed_over_spikes():
    rng = np.random.default_rng(4)
    spikes = (rng.random((9, 2, 3)) < 0.4).astype(float)
    summed = np.zeros_like(spikes)
    for k in range(9):
        for m in range(k + 1):
            summed[k] += (2 / 3) ** (k - m) / 3 * spikes[m]
    assert_close("psc", psc(spikes, 3.0), summed, rtol=1e-14)
    # tau_syn = 1 forgets at once: the PSC is the spike train.
    assert np.array_equal(psc(spikes, 1.0), spikes)


def test_psc_continues_from_its_last_value():
    spikes = np.ones((6, 2))
    whole = psc(spikes, 4.0)
    assert np.array_equal(psc(spikes[2:], 4.0, initial=whole[1]), whole[2:])


@pytest.mark.parametrize("T", [1, 2, 31])
@pytest.mark.parametrize("tau_syn", [1.0, 3.0, 7.5])
def test_psc_backward_is_the_transpose_of_psc(T, tau_syn):
    rng = np.random.default_rng(5)
    x, g = rng.normal(size=(2, T, 3, 2))
    assert_close("<psc x, g>", np.vdot(psc(x, tau_syn), g), np.vdot(x, psc_backward(g, tau_syn)), rtol=1e-12)


def test_psc_backward_agrees_with_finite_differences():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(5, 2))

    def loss(x):
        return np.sum(np.sin(psc(x, 3.0)))

    grad = psc_backward(np.cos(psc(x, 3.0)), 3.0)
    assert_close("gradient", grad, central_differences(loss, x), atol=1e-8)


def central_differences(loss, x, h=1e-5):
    grad = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[index] = h
        grad[index] = (loss(x + step) - loss(x - step)) / (2 * h)
    return grad


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"y must be \(T, \*\) with at least one time step, got shape \(0, 3\)"):
        lif_forward(np.zeros((0, 3)), **PARAMETERS)
    with pytest.raises(ValueError, match="reset must be one of 'zero', 'subtract', got 'none'"):
        lif_forward(np.zeros((1, 3)), reset="none", **PARAMETERS)
    wrong = State(np.zeros(3), np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match=r"state's rest must have the shape of one step, \(3,\), got \(2,\)"):
        lif_forward(np.zeros((1, 3)), state=wrong, **PARAMETERS)
