"""The reference's losses: values by hand, gradients by finite differences."""

import numpy as np
import pytest
from comparing import assert_close
from tssl_triton.reference import psc, softmax_cross_entropy, spike_count, squared_spike_error, van_rossum

RNG_SHAPE = (5, 3, 4)  # (T, B, classes)
LABELS = np.array([2, 0, 3])


def target():
    return (np.random.default_rng(1).random(RNG_SHAPE) < 0.5).astype(float)


LOSSES = {
    "van_rossum": lambda s: van_rossum(s, target(), 3.0),
    "squared_spike_error": lambda s: squared_spike_error(s, target()),
    "spike_count": lambda s: spike_count(s, LABELS, desired=2.6, undesired=0.3),
    "spike_count of current": lambda s: spike_count(s, LABELS, desired=2.6, undesired=0.3, tau_syn=3.0),
    "softmax_cross_entropy": lambda s: softmax_cross_entropy(s, LABELS),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_agrees_with_finite_differences(name):
    # The losses are smooth functions of real numbers, whatever spikes may be.
    spikes = np.random.default_rng(2).normal(0.4, 0.5, RNG_SHAPE)
    _, grad = LOSSES[name](spikes)
    finite = np.zeros_like(spikes)
    for index in np.ndindex(*spikes.shape):
        step = np.zeros_like(spikes)
        step[index] = 1e-5
        finite[index] = (LOSSES[name](spikes + step)[0] - LOSSES[name](spikes - step)[0]) / 2e-5
    assert grad.any()
    assert_close(name, grad, finite, atol=1e-8)


def test_van_rossum_by_hand():
    # tau_syn = 2, target fires at 0, output at 1: PSCs 1/2, 1/4, 1/8 and 0, 1/2, 1/4.
    loss, grad = van_rossum([[0.0], [1.0], [0.0]], [[1.0], [0.0], [0.0]], 2.0)
    assert loss == 0.5 * (1 / 4 + 1 / 16 + 1 / 64)
    # errors -1/2, 1/4, 1/8, filtered back in time: 1/16; 1/8 + 1/32; -1/4 + 1/16 + 1/64
    assert grad.ravel().tolist() == [-11 / 64, 5 / 32, 1 / 16]


def test_van_rossum_gradient_with_respect_to_the_psc_is_the_error():
    spikes, wanted = np.random.default_rng(3).random((2, *RNG_SHAPE))
    loss, _ = van_rossum(spikes, wanted, 3.0)
    assert_close("loss", loss, 0.5 * np.sum((psc(wanted, 3.0) - psc(spikes, 3.0)) ** 2), rtol=1e-14)


def test_equal_trains_cost_nothing():
    for loss, grad in (van_rossum(target(), target(), 3.0), squared_spike_error(target(), target())):
        assert loss == 0
        assert not grad.any()


def test_spike_count_by_hand():
    # One sample, label 0, T = 4, goals 3 and 1. Counts 1, 3, 0: two spikes missing, two too many, none.
    spikes = np.array([[[1, 1, 0]], [[0, 1, 0]], [[0, 1, 0]], [[0, 0, 0]]])
    loss, grad = spike_count(spikes, [0], desired=3, undesired=1)
    assert loss == (2**2 + 2**2) / (2 * 4)
    assert np.array_equal(grad, np.broadcast_to([-0.5, 0.5, 0.0], (4, 1, 3)))
    # Beyond the goal, on the right side of it, a count is free.
    assert spike_count(np.ones((4, 1, 1)), [0], desired=3, undesired=1)[0] == 0


def test_count_of_current_by_hand():
    # tau_syn = 2, T = 3, one spike each, at 0, 1 and 2: PSCs sum up to 1/2 + 1/4 + 1/8, 1/2 + 1/4 and 1/2.
    spikes = np.eye(3)[:, None, :]
    loss, grad = spike_count(spikes, [0], desired=1, undesired=0, tau_syn=2.0)
    errors = np.array([-1 / 8, 3 / 4, 1 / 2])
    assert loss == np.sum(errors**2) / (2 * 3)
    # A spike at step t takes part in the sum with 1 - (1/2)^(3 - t).
    assert_close("gradient", grad[:, 0], np.outer([7 / 8, 3 / 4, 1 / 2], errors / 3), rtol=1e-14)


def test_softmax_by_hand():
    # Counts 2 and 0: probabilities 1 / (1 + e^-2) and the rest.
    spikes = np.array([[[1.0, 0.0]], [[1.0, 0.0]]])
    loss, grad = softmax_cross_entropy(spikes, [1])
    p = 1 / (1 + np.exp(-2))
    assert_close("loss", loss, -np.log(1 - p), rtol=1e-14)
    assert_close("gradient", grad, np.broadcast_to([p, -p], (2, 1, 2)), rtol=1e-14)


def test_softmax_of_large_counts_stays_finite():
    spikes = np.zeros((2000, 1, 2))
    spikes[:, :, 0] = 1
    loss, grad = softmax_cross_entropy(spikes, [1])
    assert loss == 2000
    assert np.isfinite(grad).all()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"spikes and target must have one shape, got \(5, 3, 4\) and \(5, 4\)"):
        van_rossum(target(), target()[:, 0], 3.0)
    with pytest.raises(ValueError, match=r"spikes must be \(T, B, classes\) and labels \(B,\)"):
        softmax_cross_entropy(target(), [1, 2])
