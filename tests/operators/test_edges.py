"""Corner cases of the neuron: on the threshold, silence, a spike at every step, a falling membrane, no neurons."""

import pytest
import torch
from judging import DTYPES, RESETS, VARIANTS, WARMUPS, assert_agrees, draw_gradient, judge, name_of, run

from tssl_triton import LIFParameters, LIFState, lif, pack_spikes, psc, unpack_spikes

pytestmark = [pytest.mark.implementation, pytest.mark.usefixtures("poisoned", "eager")]


def series(values, dtype):
    """One neuron's input, ``(T, 1, 1)``."""
    return torch.tensor(values, dtype=dtype)[:, None, None]


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_membrane_exactly_at_threshold_does_not_fire(dtype, reset):
    # u = 1/2, 3/4, 7/8: binary fractions, and so exact in every type.
    params = LIFParameters(tau_mem=2.0, threshold=0.875, reset=reset)
    on = series([0.5, 0.5, 0.5], dtype)
    above = on.clone()
    above[2] = torch.nextafter(on[2], torch.ones_like(on[2])) if dtype.itemsize > 2 else 0.50390625
    assert lif(on, params, synapse=False).flatten().tolist() == [0, 0, 0]
    assert lif(above, params, synapse=False).flatten().tolist() == [0, 0, 1]


def test_own_current_exactly_at_the_bound_of_warm_up_is_not_below_it():
    # tau_syn = 2: a = 1/2, 1/4, 1/8 after a spike, and the bound is 1/8.
    params = LIFParameters(tau_mem=5.0, tau_syn=2.0, warmup="psc", variant="paper")
    y = series([3.0, 0.0, 0.0, 0.0], torch.float64)
    grad = run(y, torch.ones_like(y), params, synapse=False).grad.flatten()
    assert (grad[:3] != 0).tolist() == [True, False, False]
    assert grad[3] != 0


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("T", [1, 5, 17, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("strength", "spikes"), [(-3.0, 0), (50.0, 1)])
def test_silence_and_a_spike_at_every_step(strength, spikes, T, reset, variant, warmup):
    params = LIFParameters(reset=reset, variant=variant, warmup=warmup)
    y = strength * torch.rand(T, 2, 37, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + strength
    grad = draw_gradient((T, 2, 37))
    answer = run(y, grad, params)
    assert (answer.spikes == spikes).all()
    assert_agrees(answer, judge(y, grad, params), torch.float64)
    if not spikes and warmup == "off":
        assert not answer.grad.any()


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_silence_and_a_spike_at_every_step_in_every_type(dtype):
    for strength in (-3.0, 50.0):
        y, grad = torch.full((33, 2, 37), strength, dtype=dtype), draw_gradient((33, 2, 37), dtype)
        assert_agrees(run(y, grad, LIFParameters()), judge(y, grad, LIFParameters()), dtype)


@pytest.mark.parametrize("warmup", WARMUPS)
def test_a_spike_while_the_membrane_falls_or_hardly_rises(warmup):
    # With reset by subtraction, v = 4, 1.2, ... after each spike; the rises are 5, -1.8, 0.01, 0.2 and 0.
    params = LIFParameters(reset="subtract", warmup=warmup, tau_mem=5.0)
    u, v, y = 0.0, 0.0, []
    for rise in (5.0, -1.8, 0.01, 0.2, 2.0):
        y.append(v + rise - params.alpha * v)
        u = v + rise
        v = u - 1.0 if u > 1.0 else u
    y, grad = series(y, torch.float64), draw_gradient((5, 1, 1))
    verdict = judge(y, grad, params, synapse=False)
    assert verdict.trace.spikes.sum() >= 4
    assert_agrees(run(y, grad, params, synapse=False), verdict, torch.float64)


@pytest.mark.parametrize("T", [1, 5, 33])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 4)], ids=str)
def test_no_neurons(T, shape):
    y = torch.empty(T, *shape, requires_grad=True)
    spikes, state = lif(y, return_state=True)
    spikes.sum().backward()
    assert spikes.shape == y.grad.shape == (T, *shape)
    assert [part.shape for part in state] == [shape] * 3
    assert lif(y, state=state).shape == spikes.shape

    x = torch.empty(T, *shape, requires_grad=True)
    psc(x, 3.0).sum().backward()
    assert x.grad.shape == (T, *shape)
    words = pack_spikes(x)
    assert words.shape == (-(-T // 32), *shape)
    assert unpack_spikes(words, T).shape == (T, *shape)


@pytest.mark.parametrize("T", [1, 5, 17, 33])
def test_a_single_neuron(T):
    y = 2 * torch.rand(T, 1, generator=torch.Generator().manual_seed(T), dtype=torch.float64)
    grad = draw_gradient((T, 1))
    answer = run(y, grad, LIFParameters())
    assert_agrees(answer, judge(y, grad, LIFParameters()), torch.float64)
    assert all(part.shape == (1,) for part in answer.state)
    assert isinstance(answer.state, LIFState)


def test_a_gradient_of_the_state_alone_is_none():
    y = torch.ones(5, 2, 3, requires_grad=True)
    _, state = lif(y, return_state=True)
    assert not any(part.requires_grad for part in state)
