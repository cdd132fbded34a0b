"""The reference's recurrent layer: the surrogate rules against autograd of the smoothed model, TSSL-BP by hand."""

import numpy as np
import pytest
import torch
from comparing import assert_close
from judging import RESETS, draw_current, draw_gradient
from smoothed import smoothed_run
from tssl_triton.reference import lif_backward, lif_forward, recurrent_backward, recurrent_forward, surrogate_backward

CONSTANTS = {"tau_mem": 5.0, "tau_syn": 3.0, "threshold": 1.0}
T, B, H = 11, 2, 6


def drawn(seed=0):
    feed, grad = draw_current((T, B, H), seed=seed).numpy(), draw_gradient((T, B, H), seed=seed).numpy()
    weight = 1.5 * np.random.default_rng(seed).normal(size=(H, H))
    return feed, weight, grad


@pytest.mark.parametrize("reset_gradient", ["full", "detached", "none"])
@pytest.mark.parametrize("reset", RESETS)
def test_surrogates_are_autograd_s_of_the_smoothed_model(reset, reset_gradient):
    feed, weight, grad = drawn()
    slope = {"surrogate": "sigmoid", "width": 0.5, "scale": 1.2, "reset_gradient": reset_gradient}
    leaf, back = (torch.from_numpy(values).requires_grad_() for values in (feed, weight))
    spikes = smoothed_run(leaf, None, True, reset, feedback=lambda s: s @ back.t(), **slope, **CONSTANTS)
    want = torch.autograd.grad(spikes, (leaf, back), torch.from_numpy(grad))

    trace, _ = recurrent_forward(feed, weight, reset=reset, **CONSTANTS)
    got = recurrent_backward(
        trace, weight, grad, lambda g: surrogate_backward(trace, g, reset=reset, **slope, **CONSTANTS)
    )
    assert 0.1 < trace.spikes.mean() < 0.9
    assert_close("spikes", trace.spikes, spikes.detach())
    for name, mine, theirs in (("feed", got.feed, want[0]), ("V", got.weight, want[1])):
        assert_close(name, mine, theirs, atol=1e-12 * float(theirs.abs().max()))


@pytest.mark.parametrize("reset", RESETS)
def test_without_feedback_the_layer_is_its_neurons(reset):
    feed, weight, grad = drawn(1)
    trace, y = recurrent_forward(feed, 0 * weight, reset=reset, **CONSTANTS)
    alone = lif_forward(feed, reset=reset, **CONSTANTS)
    assert_close("y", y, feed)
    for name in ("current", "membrane", "rest", "spikes", "psc"):
        assert_close(name, getattr(trace, name), getattr(alone, name))
    got = recurrent_backward(trace, 0 * weight, grad, lambda g: lif_backward(trace, g, reset=reset, **CONSTANTS))
    assert_close("feed", got.feed, lif_backward(alone, grad, reset=reset, **CONSTANTS))
    assert_close("G", got.spikes, grad)


def test_two_neurons_by_hand():
    # Instant synapse (tau_syn = 1), alpha = 1/2. Neuron 0 fires at 0 and excites neuron 1 by V[1, 0] = 2 at step 1:
    #   u = (2, 0), (0, 2); both spikes rise by 2, kappa = 1/2; dL/ds = 3 for neuron 1 at step 1 alone.
    # Then delta = 1/2 * 3 for it, which V^T sends as 2 * 3/2 to the spike of neuron 0: 1/2 * 3 there.
    # Its own silent step before hands 3/2 * alpha on. Neuron 0 heard nothing.
    neuron = {"tau_mem": 2.0, "tau_syn": 1.0, "threshold": 1.0}
    weight = [[0.0, 0.0], [2.0, 0.0]]
    trace, y = recurrent_forward([[[2.0, 0.0]], [[0.0, 0.0]]], weight, **neuron)
    assert trace.spikes.tolist() == [[[1.0, 0.0]], [[0.0, 1.0]]]
    assert y.tolist() == [[[2.0, 0.0]], [[0.0, 2.0]]]
    got = recurrent_backward(
        trace, weight, [[[0.0, 0.0]], [[0.0, 3.0]]], lambda g: lif_backward(trace, g, warmup="off", **neuron)
    )
    assert_close("feed", got.feed, [[[1.5, 0.75]], [[0.0, 1.5]]], atol=1e-15)
    assert_close("V", got.weight, [[0.0, 0.0], [1.5, 0.0]], atol=1e-15)
    assert_close("G", got.spikes, [[[3.0, 0.0]], [[0.0, 3.0]]], atol=1e-15)


def test_windows_that_hand_over_state_and_spikes_are_one_run():
    feed, weight, _ = drawn(2)
    whole, y = recurrent_forward(feed, weight, **CONSTANTS)
    first, y_first = recurrent_forward(feed[:4], weight, **CONSTANTS)
    second, y_second = recurrent_forward(feed[4:], weight, state=first.state, before=first.spikes[-1], **CONSTANTS)
    assert_close("y", np.concatenate([y_first, y_second]), y)
    assert_close("spikes", np.concatenate([first.spikes, second.spikes]), whole.spikes)
    assert_close("membrane", np.concatenate([first.membrane, second.membrane]), whole.membrane)
