"""The reference's gradient: by hand, by brute force over chains of spikes, and its options."""

from itertools import pairwise

import numpy as np
import pytest
from comparing import assert_close
from tssl_triton.reference import lif_backward, lif_backward_from_psc, lif_forward, phi_table, psc_backward
from tssl_triton.reference.phi import psc_kernel

PARAMETERS = {"tau_mem": 5.0, "tau_syn": 3.0, "threshold": 1.0}
RESETS = ["zero", "subtract"]
VARIANTS = ["released", "paper"]


def run(T, reset="zero", seed=0, shape=(2, 5), scale=1.5):
    """A run with neurons that fire often, rarely and never, and a random upstream gradient."""
    rng = np.random.default_rng(seed)
    drive = rng.normal(0.6, scale, (T, *shape)) + rng.normal(0.0, 0.8, shape)
    trace = lif_forward(drive, synapse=False, reset=reset, **PARAMETERS)
    return trace, rng.normal(size=drive.shape)


# By hand: alpha = beta = 1/2, threshold 1, current 2, 1, 3/2; dL/ds = 1, 2, 3.
# Reset to zero:
#   t = 0: u = 2,             rise 2, kappa 1/2, spike, v = 0, a = 1/2
#   t = 1: u = 1, no spike (not above the threshold),   v = 1, a = 1/4
#   t = 2: u = 1/2 + 3/2 = 2, rise 1, kappa 1,   spike, v = 0, a = 5/8
#   phi, row k = spike, column m = membrane:
#     phi(0,0) = 1/2, phi(2,2) = 1, phi(2,1) = alpha = 1/2 (released; 0 in the paper's text),
#     phi(2,0) = kappa[0] (u[0]/tau_mem) alpha^(2-0-1) phi(2,2) = 1/2 * 1 * 1/2 * 1 = 1/4
#   dL/du = [1/2 * 1 + 1/4 * 3, 1/2 * 3, 1 * 3] = [5/4, 3/2, 3]
#   dL/dy = [5/8 + 3/8 + 3/8, 3/4 + 3/4, 3/2] = [11/8, 3/2, 3/2]
# Reset by subtraction:
#   t = 0: u = 2,               rise 2,   kappa 1/2, spike, v = 1
#   t = 1: u = 1/2 + 1 = 3/2,   rise 1/2, kappa 2,   spike, v = 1/2
#   t = 2: u = 1/4 + 3/2 = 7/4, rise 5/4, kappa 4/5, spike, v = 3/4
#   phi(1,0) = kappa[0] (threshold/tau_mem) phi(1,1) = 1/2 * 1/2 * 2 = 1/2
#   phi(2,1) = kappa[1] * 1/2 * phi(2,2) = 2 * 1/2 * 4/5 = 4/5
#   phi(2,0) = kappa[0] * 1/2 * phi(2,1) = 1/2 * 1/2 * 4/5 = 1/5
#   dL/du = [1/2 + 1/2 * 2 + 1/5 * 3, 2 * 2 + 4/5 * 3, 4/5 * 3] = [21/10, 32/5, 12/5]
BY_HAND = {
    ("zero", "released"): ([[1 / 2, 0, 0], [0, 0, 0], [1 / 4, 1 / 2, 1]], [5 / 4, 3 / 2, 3]),
    ("zero", "paper"): ([[1 / 2, 0, 0], [0, 0, 0], [1 / 4, 0, 1]], [5 / 4, 0, 3]),
    ("subtract", "released"): (
        [[1 / 2, 0, 0], [1 / 2, 2, 0], [1 / 5, 4 / 5, 4 / 5]],
        [21 / 10, 32 / 5, 12 / 5],
    ),
    # Nothing of the spike at 2 in the one at 0: without phi2, and where the silent step between them hands nothing on.
    ("zero", "no-intra"): ([[1 / 2, 0, 0], [0, 0, 0], [0, 1 / 2, 1]], [1 / 2, 3 / 2, 3]),
    ("zero", "no-leak"): ([[1 / 2, 0, 0], [0, 0, 0], [0, 0, 1]], [1 / 2, 0, 3]),
    ("subtract", "no-intra"): ([[1 / 2, 0, 0], [0, 2, 0], [0, 0, 4 / 5]], [1 / 2, 4, 12 / 5]),
    # No silent step: as released.
    ("subtract", "no-leak"): (
        [[1 / 2, 0, 0], [1 / 2, 2, 0], [1 / 5, 4 / 5, 4 / 5]],
        [21 / 10, 32 / 5, 12 / 5],
    ),
}


@pytest.mark.parametrize(("reset", "variant"), BY_HAND)
def test_three_steps_by_hand(reset, variant):
    neuron = {"tau_mem": 2.0, "threshold": 1.0}
    trace = lif_forward([[2.0], [1.0], [1.5]], tau_syn=2, synapse=False, reset=reset, **neuron)
    table, grad_membrane = BY_HAND[reset, variant]
    phi = phi_table(trace, np.eye(3), reset=reset, max_slope=8.0, variant=variant, **neuron)
    assert_close("phi", phi[..., 0], table, atol=1e-15)

    options = {"tau_syn": 2.0, "reset": reset, "variant": variant, "warmup": "psc", **neuron}
    grad = lif_backward(trace, [[1.0], [2.0], [3.0]], synapse=False, **options)
    assert_close("dL/du", grad[:, 0], grad_membrane, atol=1e-14)


def test_three_steps_by_hand_through_the_synapse():
    neuron = {"tau_mem": 2.0, "tau_syn": 2.0, "threshold": 1.0}
    trace = lif_forward([[2.0], [1.0], [1.5]], synapse=False, **neuron)
    grad = lif_backward(trace, [[1.0], [2.0], [3.0]], synapse=True, **neuron)
    assert_close("dL/dy", grad[:, 0], [11 / 8, 3 / 2, 3 / 2], atol=1e-14)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("T", [1, 2, 5, 20])
def test_sum_over_every_chain_of_spikes(T, reset, variant):
    """Each pair m <= k of one neuron alone: a product over the spikes between, written without any table."""
    trace, grad_spikes = run(T, reset, seed=T)
    got = lif_backward(trace, grad_spikes, synapse=False, warmup="off", reset=reset, variant=variant, **PARAMETERS)
    for neuron in np.ndindex(*trace.spikes.shape[1:]):
        s, u, v = (series[(slice(None), *neuron)] for series in (trace.spikes, trace.membrane, trace.rest))
        rise = [u[t] - (v[t - 1] if t else 0.0) for t in range(T)]
        kappa = [8.0 if r == 0 else min(max(1 / r, 0.0), 8.0) for r in rise]
        fired = [t for t in range(T) if s[t]]
        for m in range(T):
            want = 0.0
            for k in (k for k in fired if k >= m):
                chain = [p for p in fired if m <= p <= k]
                if s[m]:
                    effect = 1.0
                elif variant == "released":
                    effect = 0.8 ** (chain[0] - m)
                else:
                    effect = 0.0
                for p, following in pairwise(chain):
                    reset_height = u[p] if reset == "zero" else 1.0
                    effect *= kappa[p] * reset_height / 5.0 * 0.8 ** (following - p - 1)
                want += effect * kappa[k] * grad_spikes[(k, *neuron)]
            assert_close(f"dL/du[{m}] of neuron {neuron}", got[(m, *neuron)], want, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("reset", RESETS)
def test_the_reset_term_is_the_spike_moved_by_one_step(reset):
    """du[p]/dt_m is what the membrane at p loses when the reset at m happens one step later."""
    alpha = 1 - 1 / 5
    height = 1.7 if reset == "zero" else 1.0  # u[m] = 1.7
    missing = {n: height * alpha**n for n in range(6)}  # of the membrane, n steps after the reset
    drive = np.zeros((6, 1))
    drive[0], drive[5] = 1.7, 5.0
    trace = lif_forward(drive, synapse=False, reset=reset, **PARAMETERS)
    assert trace.spikes[:, 0].tolist() == [1, 0, 0, 0, 0, 1]
    later = -(missing[4] - missing[5])

    phi = phi_table(trace, np.eye(6), tau_mem=5.0, threshold=1.0, reset=reset, max_slope=8.0, variant="paper")
    kappa_0 = 1 / 1.7
    assert_close("phi(5, 0)", phi[5, 0, 0], -kappa_0 * later * phi[5, 5, 0], rtol=1e-13)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("warmup", ["psc", "silent", "off"])
@pytest.mark.parametrize("synapse", [True, False])
def test_the_table_on_the_psc_equals_the_table_on_spikes(reset, variant, warmup, synapse):
    trace, grad_psc = run(33, reset, seed=7)
    options = {"reset": reset, "variant": variant, "warmup": warmup, "synapse": synapse, **PARAMETERS}
    from_psc = lif_backward_from_psc(trace, grad_psc, **options)
    from_spikes = lif_backward(trace, psc_backward(grad_psc, 3.0), **options)
    assert_close("gradient", from_psc, from_spikes, rtol=1e-11, atol=1e-13)


def test_phi_of_a_single_spike_is_the_psc_kernel():
    drive = np.zeros((6, 1))
    drive[2] = 2.0
    trace = lif_forward(drive, synapse=False, **PARAMETERS)
    phi = phi_table(trace, psc_kernel(6, 3.0), tau_mem=5.0, threshold=1.0, reset="zero", max_slope=8.0, variant="paper")
    want = np.zeros((6, 6))
    want[2:, 2] = 1 / 2 * (2 / 3) ** np.arange(4) / 3
    assert_close("phi", phi[..., 0], want, atol=1e-15)


@pytest.mark.parametrize("reset", RESETS)
def test_paper_variant_is_exactly_zero_at_silent_steps_and_equal_at_spikes(reset):
    trace, grad_spikes = run(31, reset, seed=8)
    options = {"reset": reset, "warmup": "off", "synapse": False, **PARAMETERS}
    paper = lif_backward(trace, grad_spikes, variant="paper", **options)
    released = lif_backward(trace, grad_spikes, variant="released", **options)
    silent = trace.spikes == 0
    assert (paper[silent] == 0).all()
    assert released[silent].any()
    assert np.array_equal(paper[~silent], released[~silent])


def test_released_variant_leaks_the_next_spikes_error():
    trace, grad_spikes = run(31, seed=9)
    grad = lif_backward(trace, grad_spikes, warmup="off", synapse=False, **PARAMETERS)
    silent = trace.spikes[:-1] == 0
    assert_close("leak", grad[:-1][silent], 0.8 * grad[1:][silent], rtol=1e-12)
    assert (grad[-1][trace.spikes[-1] == 0] == 0).all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("warmup", ["psc", "silent", "off", "always"])
def test_warmup_takes_over_where_it_should(warmup, variant):
    trace, grad_spikes = run(20, seed=10, scale=0.8)
    options = {"variant": variant, "synapse": False, **PARAMETERS}
    plain = lif_backward(trace, grad_spikes, warmup="off", **options)
    got = lif_backward(trace, grad_spikes, warmup=warmup, **options)

    x = np.clip((trace.membrane - 1.0) / 0.2, -8, 8)
    surrogate = grad_spikes * np.exp(-x) / (1 + np.exp(-x)) ** 2 / 0.2
    if warmup == "psc":
        warm = trace.psc < 1 / 12
    elif warmup == "silent":
        warm = np.ones((20, 1, 1), bool) & ~trace.spikes.any(axis=0)
    else:
        warm = np.full(trace.spikes.shape, warmup == "always")
    assert warm.any() == (warmup != "off")
    assert warm.all() == (warmup == "always")
    assert_close("gradient", got, np.where(warm, surrogate, plain), rtol=1e-12)


def test_warmup_slope_is_the_sigmoids_derivative_and_is_clipped():
    def sigmoid(u):
        return 1 / (1 + np.exp(-(u - 1) / 0.2))

    u = np.array([[0.2, 0.9, 1.0, -0.4, -50.0]])
    trace = lif_forward(u, synapse=False, **PARAMETERS)
    slope = lif_backward(trace, np.ones_like(u), warmup="silent", synapse=False, **PARAMETERS)
    finite = (sigmoid(u + 1e-6) - sigmoid(u - 1e-6)) / 2e-6
    assert_close("slope", slope[0, :4], finite[0, :4], rtol=1e-8)
    at_clip = np.exp(8) / (1 + np.exp(8)) ** 2 / 0.2
    assert_close("clipped slope", slope[0, 4], at_clip, rtol=1e-12)


@pytest.mark.parametrize("reset", RESETS)
def test_window_warms_up_by_the_psc_that_continues_from_its_state(reset):
    """A neuron that fired just before the window is not warming up at its first step."""
    drive = np.array([[1.5], [0.1], [0.1], [0.1], [3.0], [0.2]])
    whole = lif_forward(drive, synapse=False, reset=reset, **PARAMETERS)
    first = lif_forward(drive[:1], synapse=False, reset=reset, **PARAMETERS)
    second = lif_forward(drive[1:], synapse=False, reset=reset, state=first.state, **PARAMETERS)
    grad_spikes = np.arange(1.0, 7.0)[:, None]

    options = {"reset": reset, "synapse": False, **PARAMETERS}
    in_whole = lif_backward(whole, grad_spikes, **options)
    in_second = lif_backward(second, grad_spikes[1:], **options)
    # Nothing after the window exists, so the last window's gradients are those of the whole run.
    assert_close("second window", in_second, in_whole[1:], rtol=1e-13)
    assert second.psc[0, 0] > 1 / 12

    # The first window does not see the spikes of the second.
    in_first = lif_backward(first, grad_spikes[:1], **options)
    assert_close("first window", in_first[0, 0], 1 / 1.5, rtol=1e-13)
    assert in_whole[0, 0] > in_first[0, 0]


@pytest.mark.parametrize("synapse", [True, False])
@pytest.mark.parametrize("reset", RESETS)
def test_last_window_has_the_gradient_of_the_whole_run(reset, synapse):
    """No error comes from beyond the last step, so a cut before it changes nothing after the cut."""
    rng = np.random.default_rng(11)
    y, grad_spikes = rng.normal(1.0, 1.5, (21, 40)), rng.normal(size=(21, 40))
    options = {"reset": reset, "synapse": synapse, **PARAMETERS}
    whole = lif_forward(y, **options)
    first = lif_forward(y[:13], **options)
    last = lif_forward(y[13:], state=first.state, **options)
    # Spikes in the step after the cut, out of a membrane that is not at zero, are what needs the state.
    assert ((last.spikes[0] == 1) & (first.state.rest != 0)).any()
    got = lif_backward(last, grad_spikes[13:], **options)
    assert_close("gradient", got, lif_backward(whole, grad_spikes, **options)[13:], rtol=1e-11, atol=1e-13)


def test_silent_warmup_is_for_neurons_without_a_single_spike():
    # Neuron 0 fires once, neuron 1 never.
    trace = lif_forward([[2.0, 0.5], [0.0, 0.0]], synapse=False, **PARAMETERS)
    grad = lif_backward(trace, np.ones((2, 2)), warmup="silent", synapse=False, **PARAMETERS)
    assert grad[:, 0].tolist() == [0.5, 0.0]
    assert (grad[:, 1] > 0).all()


def test_slope_of_a_membrane_that_stands_still_or_falls():
    # Reset by subtraction can leave the membrane above the threshold: it fires again without rising.
    # u = 5 leaves v = 4; u = (4/5) 4 + 4/5 = 4 stands still and fires, and leaves v = 3;
    # u = (4/5) 3 - 1 = 7/5 falls and fires.
    drive = np.array([[5.0], [0.8], [-1.0]])
    trace = lif_forward(drive, synapse=False, reset="subtract", **PARAMETERS)
    assert trace.spikes.all()
    phi = phi_table(trace, np.eye(3), tau_mem=5.0, threshold=1.0, reset="subtract", max_slope=8.0, variant="paper")
    kappa = np.diagonal(phi[..., 0])
    assert_close("kappa", kappa, [1 / 5, 8.0, 0.0], rtol=1e-12)


def test_slope_is_bounded_by_max_slope():
    # Membrane 0.99 creeps to 1.01: a rise of 0.02 has slope 50.
    trace = lif_forward([[0.99], [1.01 - 0.8 * 0.99]], synapse=False, **PARAMETERS)
    options = {"synapse": False, "warmup": "off", **PARAMETERS}
    for bound, want in [(8.0, 8.0), (2.5, 2.5), (100.0, 50.0)]:
        grad = lif_backward(trace, [[0.0], [1.0]], max_slope=bound, **options)
        assert_close(f"max_slope {bound}", grad[1, 0], want, rtol=1e-12)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_step(reset, variant):
    trace = lif_forward([[4.0, 0.5]], synapse=False, reset=reset, **PARAMETERS)
    grad = lif_backward(trace, [[3.0, 3.0]], synapse=False, warmup="off", reset=reset, variant=variant, **PARAMETERS)
    assert_close("gradient", grad, [[0.75, 0.0]])


def test_no_spike_at_all_gives_no_gradient_without_warmup():
    trace = lif_forward(np.full((9, 3), -0.5), **PARAMETERS)
    grad_spikes = np.ones((9, 3))
    assert not lif_backward(trace, grad_spikes, warmup="off", **PARAMETERS).any()
    assert lif_backward(trace, grad_spikes, warmup="psc", **PARAMETERS).all()


@pytest.mark.parametrize("reset", RESETS)
def test_spike_at_every_step(reset):
    trace = lif_forward(np.full((6, 1), 10.0), synapse=False, reset=reset, **PARAMETERS)
    grad = lif_backward(trace, np.ones((6, 1)), synapse=False, reset=reset, **PARAMETERS)
    assert trace.spikes.all()
    # Reset to zero: every rise is 10 and the reset's height is 10, so each spike hands back 1/10 * 10/5 = 1/5
    # of the next one's error.
    if reset == "zero":
        want = [sum(0.1 * 0.2**n for n in range(6 - t)) for t in range(6)]
        assert_close("gradient", grad[:, 0], want, rtol=1e-12)
    else:
        assert (grad > 0).all()


def test_instant_time_constants():
    # tau_mem = tau_syn = 1: nothing is kept, and an exponent of zero must still count as one.
    trace = lif_forward([[2.0], [4.0], [0.0], [4.0]], tau_mem=1, tau_syn=1, threshold=1)
    grad = lif_backward(trace, np.ones((4, 1)), tau_mem=1, tau_syn=1, threshold=1, warmup="off")
    # Spike 1 is followed by a silent step, across which nothing leaks, so 1/4 is its own slope.
    # Spike 0 (rise 2, height 2) is followed at once by spike 1: 1/2 (1 + 2 * 1/4) = 3/4.
    assert_close("gradient", grad[:, 0], [0.75, 0.25, 0.0, 0.25], rtol=1e-14)


def test_empty_batch():
    trace = lif_forward(np.zeros((4, 0, 3)), **PARAMETERS)
    assert lif_backward(trace, np.zeros((4, 0, 3)), **PARAMETERS).shape == (4, 0, 3)


def test_bad_arguments_are_named():
    trace, grad_spikes = run(4)
    with pytest.raises(ValueError, match=r"gradient must have the spikes' shape \(4, 2, 5\), got \(3, 2, 5\)"):
        lif_backward(trace, grad_spikes[:3], **PARAMETERS)
    with pytest.raises(ValueError, match="warmup must be one of 'psc', 'silent', 'off', 'always', got 'on'"):
        lif_backward(trace, grad_spikes, warmup="on", **PARAMETERS)
    with pytest.raises(
        ValueError, match="variant must be one of 'released', 'paper', 'no-intra', 'no-leak', got 'mine'"
    ):
        lif_backward(trace, grad_spikes, variant="mine", **PARAMETERS)
