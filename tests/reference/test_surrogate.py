"""The surrogate rules of the reference against PyTorch's autograd of the smoothed model, in float64.

The smoothed model spikes H(x) + S(x) - S(x).detach(): a step's value with the slope of S, whose derivative is the
window. Autograd then follows every path through synapse, membrane and reset by itself, and what it finds is STBP's
gradient by definition; SLAYER's, where the reset is kept out of what is differentiated.
"""

import numpy as np
import pytest
import torch
from comparing import assert_close
from judging import RESETS, draw_current, draw_gradient
from smoothed import WINDOWS, smoothed_run
from tssl_triton.reference import State, lif_forward, surrogate_backward, surrogate_slope

CONSTANTS = {"tau_mem": 5.0, "tau_syn": 3.0, "threshold": 1.0}


def by_autograd(y, grad, state, synapse, reset, **slope):
    """Spikes of the smoothed model and the gradient of its input, ``(T, *)`` each."""
    leaf = y.clone().requires_grad_()
    spikes = smoothed_run(leaf, state, synapse, reset, **slope, **CONSTANTS)
    return spikes.detach(), torch.autograd.grad(spikes, leaf, grad)[0]


@pytest.mark.parametrize("synapse", [True, False])
@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("reset_gradient", ["full", "detached", "none"])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("window", WINDOWS)
def test_gradient_is_that_of_the_smoothed_model(window, reset, reset_gradient, carried, synapse):
    y, grad = draw_current((23, 3, 11), seed=2), draw_gradient((23, 3, 11), seed=2)
    state = draw_current((3, 3, 11), seed=3).abs() if carried else None
    options = {"reset": reset, "synapse": synapse}
    slope = {"surrogate": window, "width": 0.7, "scale": 1.3, "reset_gradient": reset_gradient}
    start = None if state is None else State(*state.numpy())
    trace = lif_forward(y.numpy(), state=start, **options, **CONSTANTS)
    got = surrogate_backward(trace, grad.numpy(), **options, **slope, **CONSTANTS)
    spikes, want = by_autograd(y, grad, state, **options, **slope)
    assert 0.1 < trace.spikes.mean() < 0.9
    assert_close("spikes", spikes, trace.spikes)
    # Relative to each neuron's largest; a neuron that no window reaches has zeros.
    largest = want.abs().amax(0, keepdim=True).clamp(min=1e-300)
    assert_close("gradient", torch.from_numpy(got) / largest, want / largest, atol=1e-12)


@pytest.mark.parametrize("width", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("window", WINDOWS)
def test_windows_have_unit_area_and_are_even(window, width):
    # Half of it is near 0; substitute x = e^r, so that the long tails are reached too.
    r = np.linspace(-20, 20, 400_001)
    half = np.sum(surrogate_slope(np.exp(r), window, width) * np.exp(r)) * (r[1] - r[0])
    assert half == pytest.approx(0.5, rel=1e-4)
    x = np.linspace(-3, 3, 101)
    assert_close("even", surrogate_slope(x, window, width), surrogate_slope(-x, window, width))


def test_worked_by_hand():
    # u = 1.25 fires, u = 0.5 does not. Window 1 wide: f = 1 where u is between 1/2 and 3/2, both ends left out.
    trace = lif_forward([[1.25], [0.5]], synapse=False, **CONSTANTS)
    options = {"synapse": False, "surrogate": "rectangular", **CONSTANTS}
    assert surrogate_backward(trace, [[2.0], [3.0]], **options).tolist() == [[2.0], [0.0]]
    # Triangle of half-width 1: f = 3/4 and 1/2; alpha (1 - s - u f) = 0.8 (-1.25 * 0.75) = -0.75 hands 3/2 back.
    options["surrogate"] = "triangular"
    got = surrogate_backward(trace, [[2.0], [3.0]], **options)
    assert_close("gradient", got, [[2 * 0.75 - 0.75 * 1.5], [1.5]], rtol=1e-14)
    # Without the reset's gradient nothing passes a reset to zero; SLAYER passes all.
    for reset_gradient, want in (("detached", 1.5), ("none", 1.5 + 0.8 * 1.5)):
        got = surrogate_backward(trace, [[2.0], [3.0]], reset_gradient=reset_gradient, **options)
        assert_close(reset_gradient, got, [[want], [1.5]], rtol=1e-14)


def test_bad_arguments_are_named():
    trace = lif_forward(np.ones((4, 2)), **CONSTANTS)
    grad = np.ones((4, 2))
    with pytest.raises(ValueError, match=r"gradient must have the spikes' shape \(4, 2\), got \(3, 2\)"):
        surrogate_backward(trace, grad[:3], **CONSTANTS)
    with pytest.raises(ValueError, match=r"surrogate must be one of 'rectangular', .*, got 'gauss'"):
        surrogate_backward(trace, grad, surrogate="gauss", **CONSTANTS)
    with pytest.raises(ValueError, match="reset_gradient must be one of 'full', 'detached', 'none', got 'half'"):
        surrogate_backward(trace, grad, reset_gradient="half", **CONSTANTS)
    with pytest.raises(ValueError, match="reset must be one of 'zero', 'subtract', got 'soft'"):
        surrogate_backward(trace, grad, reset="soft", **CONSTANTS)
