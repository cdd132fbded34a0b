"""Gradients of the neuron's constants in the reference, against float64 finite differences where the model is smooth.

For the surrogate rules that model spikes S(u - threshold), with S' the rule's window: no step is left in it, and all
that the rule calls a derivative is one. TSSL-BP differentiates the times of spikes that are there; its model keeps the
pattern of spikes and follows their times to first order. Where a rule leaves a path out of what it differentiates,
autograd of the same model with that path detached is the judge.
"""

import numpy as np
import pytest
import torch
from comparing import assert_close
from judging import RESETS, draw_current, draw_gradient
from smoothed import WINDOWS, antiderivative, smoothed_run
from tssl_triton.reference import (
    State,
    Trace,
    lif_backward,
    lif_constant_gradients,
    lif_forward,
    surrogate_constant_gradients,
)

NAMES = ("tau_mem", "tau_syn", "threshold")
CONSTANTS = {"tau_mem": 5.0, "tau_syn": 3.0, "threshold": 1.0}
T, B, N = 15, 2, 7


def drawn(seed, carried=False):
    y, grad = draw_current((T, B, N), seed=seed).numpy(), draw_gradient((T, B, N), seed=seed).numpy()
    state = State(*draw_current((3, B, N), seed=seed + 1).abs().numpy()) if carried else None
    return y, grad, state


def finite_differences(loss, step=1e-5):
    """dL of each neuron by each constant; ``loss(**constants)`` is ``(B, N)``, one number per neuron."""
    found = []
    for name in NAMES:
        high, low = (loss(**{**CONSTANTS, name: CONSTANTS[name] + sign * step}) for sign in (1, -1))
        found.append((high - low) / (2 * step))
    return found


def assert_gradients(got, want, error):
    """Each neuron's three gradients, relative to the largest of the constant's; 0 where none is expected."""
    for name, mine, theirs in zip(NAMES, got, want, strict=True):
        assert np.abs(theirs).max() > 0.01, name
        assert_close(name, mine, theirs, atol=error * np.abs(theirs).max())


def smooth_forward(y, state, window, width, reset, synapse, *, tau_mem, tau_syn, threshold):
    """The neuron whose spikes are S(u - threshold), a number between 0 and 1, as a `Trace`."""
    i, v, a = (np.zeros(y.shape[1:]),) * 3 if state is None else state
    initial, steps = State(i, v, a), []
    for y_t in y:
        i = (1 - 1 / tau_syn) * i + y_t / tau_syn if synapse else y_t
        u = (1 - 1 / tau_mem) * v + i
        s = antiderivative(torch.from_numpy(u - threshold), window, width).numpy()
        v = u * (1 - s) if reset == "zero" else u - threshold * s
        steps.append((i, u, v, s, a))
    return Trace(*(np.stack(series) for series in zip(*steps, strict=True)), initial, State(i, v, a))


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("window", WINDOWS)
def test_surrogates_are_the_smooth_model_s_finite_differences(window, reset, carried):
    y, grad, state = drawn(1, carried)

    def loss(**constants):
        return (grad * smooth_forward(y, state, window, 0.9, reset, True, **constants).spikes).sum(axis=0)

    trace = smooth_forward(y, state, window, 0.9, reset, True, **CONSTANTS)
    options = {"reset": reset, "surrogate": window, "width": 0.9}
    got = surrogate_constant_gradients(trace, y, grad, **options, **CONSTANTS)
    # Central differences of step h are off by h^2 and by rounding over h, 1e-10 each; a window with edges adds h at
    # those few membranes that are within h of one, of which there are none here.
    assert_gradients(got, finite_differences(loss), error=1e-7)


@pytest.mark.parametrize("reset_gradient", ["full", "detached", "none"])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("window", WINDOWS)
def test_surrogates_are_autograd_s_with_spikes_that_are_steps(window, reset, reset_gradient):
    y, grad, state = drawn(2, carried=True)
    slope = {"surrogate": window, "width": 0.7, "scale": 1.3, "reset_gradient": reset_gradient}
    leaves = [torch.full((B, N), CONSTANTS[name], dtype=torch.float64, requires_grad=True) for name in NAMES]
    start = [torch.from_numpy(part) for part in state]
    spikes = smoothed_run(torch.from_numpy(y), start, True, reset, **slope, **dict(zip(NAMES, leaves, strict=True)))
    want = torch.autograd.grad(spikes, leaves, torch.from_numpy(grad))

    trace = lif_forward(y, state=state, reset=reset, **CONSTANTS)
    got = surrogate_constant_gradients(trace, y, grad, reset=reset, **slope, **CONSTANTS)
    assert_close("spikes", trace.spikes, spikes.detach())
    assert_gradients(got, [part.numpy() for part in want], error=1e-12)


def spike_time_loss(y, grad, state, reset, variant, base, *, tau_mem, tau_syn, threshold):
    """G times how much earlier each spike is than in the run ``base``, ``(B, N)``: TSSL-BP's model, for fixed spikes.

    A spike is earlier by kappa (u - threshold), counted from the base run. What a reset leaves is the base run's, plus
    what an earlier spike adds to the next membrane by eq. (14), less a raised threshold where that is what is taken.
    """
    rises = base.membrane - np.concatenate([base.initial.rest[None], base.rest[:-1]])
    kappa = np.clip(1 / rises, 0, 8.0)
    alpha, beta = 1 - 1 / tau_mem, 1 - 1 / tau_syn
    i, v, _ = base.initial
    total = np.zeros(y.shape[1:])
    for t, y_t in enumerate(y):
        i = beta * i + y_t / tau_syn
        u = alpha * v + i
        fired = base.spikes[t] == 1
        lift = (u - base.membrane[t]) - (threshold - CONSTANTS["threshold"])
        earlier = np.where(fired, kappa[t] * lift, 0.0)
        total += grad[t] * earlier
        rho = (base.membrane[t] if reset == "zero" else CONSTANTS["threshold"]) / CONSTANTS["tau_mem"]
        taken = threshold - CONSTANTS["threshold"] if reset == "subtract" else 0.0
        answered = 0.0 if variant == "no-intra" else earlier * rho / (1 - 1 / CONSTANTS["tau_mem"]) - taken
        v = np.where(fired, base.rest[t] + answered, u)
    return total


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("variant", ["released", "no-intra"])
@pytest.mark.parametrize("reset", RESETS)
def test_tssl_is_the_spike_times_finite_differences(reset, variant, carried):
    y, grad, state = drawn(3, carried)
    base = lif_forward(y, state=state, reset=reset, **CONSTANTS)
    assert 0.1 < base.spikes.mean() < 0.9

    def loss(**constants):
        return spike_time_loss(y, grad, state, reset, variant, base, **constants)

    got = lif_constant_gradients(base, y, grad, reset=reset, variant=variant, warmup="off", **CONSTANTS)
    # The model is linear in spike times; differences are off as above.
    assert_gradients(got, finite_differences(loss), error=1e-7)


def test_a_spike_s_time_moves_with_the_threshold_as_a_straight_line_crosses_it():
    # From v = 0 the membrane rises to 1.25: it crosses the threshold after threshold / 1.25 of the step.
    trace = lif_forward([[1.25]], synapse=False, **CONSTANTS)
    high, low = ((1.0 + h) / 1.25 for h in (1e-6, -1e-6))
    later = (high - low) / 2e-6
    got = lif_constant_gradients(trace, [[1.25]], [[1.0]], synapse=False, **CONSTANTS)
    # The error of a spike is that of being earlier.
    assert_close("threshold", got.threshold, [-later], rtol=1e-9)


# The example of test_phi.py: currents 2, 1, 3/2, dL/ds = 1, 2, 3, alpha = 1/2, tau_mem = 2.
#   reset to zero: v before each step 0, 0, 1; dL/du = 5/4, 3/2, 3; spikes at 0 and 2
#     tau_mem: (3 * 1) / 4; threshold: -(5/4 + 3)
#   by subtraction: v before 0, 1, 1/2; dL/du = 21/10, 32/5, 12/5; spikes at each step
#     tau_mem: (32/5 + 12/5 * 1/2) / 4; threshold: -(21/10 + 32/5 + 12/5) - 1/2 (32/5 + 12/5)
@pytest.mark.parametrize(
    ("reset", "tau_mem", "threshold"), [("zero", 3 / 4, -17 / 4), ("subtract", 19 / 10, -153 / 10)]
)
def test_three_steps_by_hand(reset, tau_mem, threshold):
    neuron = {"tau_mem": 2.0, "tau_syn": 2.0, "threshold": 1.0, "reset": reset, "synapse": False}
    y = [[2.0], [1.0], [1.5]]
    got = lif_constant_gradients(lif_forward(y, **neuron), y, [[1.0], [2.0], [3.0]], **neuron)
    assert_close("tau_mem", got.tau_mem, [tau_mem], atol=1e-14)
    assert_close("threshold", got.threshold, [threshold], atol=1e-14)
    assert got.tau_syn.tolist() == [0.0]


@pytest.mark.parametrize("variant", ["released", "paper", "no-leak"])
@pytest.mark.parametrize("warmup", ["psc", "always"])
def test_warm_up_is_the_sigmoid_s_and_silent_steps_cross_no_threshold(variant, warmup):
    y, grad, _ = drawn(4)
    trace = lif_forward(y, **CONSTANTS)
    options = {"variant": variant, "warmup": warmup, **CONSTANTS}
    delta = lif_backward(trace, grad, synapse=False, **options)
    x = np.clip((trace.membrane - 1.0) / 0.2, -8, 8)
    slope = np.exp(-x) / (1 + np.exp(-x)) ** 2 / 0.2
    warm = np.ones_like(grad, bool) if warmup == "always" else trace.psc < 1 / 12
    want = -np.where(warm, grad * slope, delta * trace.spikes).sum(axis=0)
    assert_close("threshold", lif_constant_gradients(trace, y, grad, **options).threshold, want, atol=1e-13)
