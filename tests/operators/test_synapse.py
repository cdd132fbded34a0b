"""The synaptic filter and its transpose against the reference in float64."""

import pytest
import torch
from judging import DTYPES, STEPS, assert_near, draw_gradient, name_of
from tssl_triton.reference import psc as reference_psc
from tssl_triton.reference import psc_backward

from tssl_triton import psc

pytestmark = [pytest.mark.implementation, pytest.mark.usefixtures("poisoned", "eager")]


def draw_spikes(shape, dtype):
    generator = torch.Generator().manual_seed(shape[0])
    return (torch.rand(shape, generator=generator) < 0.3).to(dtype)


def exact(x):
    return x.detach().double().numpy()


@pytest.mark.parametrize("tau_syn", [1.0, 3.0, 7.5])
@pytest.mark.parametrize("T", STEPS)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_filter_and_transpose(dtype, T, tau_syn):
    spikes = draw_spikes((T, 3, 37), dtype).requires_grad_()
    grad = draw_gradient((T, 3, 37), dtype, seed=T)
    a = psc(spikes, tau_syn)
    a.backward(grad)
    assert a.dtype == spikes.grad.dtype == dtype
    assert_near("psc", a, reference_psc(exact(spikes), tau_syn), dtype)
    assert_near("gradient", spikes.grad, psc_backward(exact(grad), tau_syn), dtype)


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 129), (9, 7, 53), (5, 2, 3, 4, 5)], ids=str)
def test_shapes(shape):
    x = draw_gradient(shape).requires_grad_()
    grad = draw_gradient(shape, seed=1)
    a = psc(x, 3.0)
    a.backward(grad)
    assert_near("psc", a[:, None], reference_psc(exact(x), 3.0)[:, None], torch.float64)
    assert_near("gradient", x.grad[:, None], psc_backward(exact(grad), 3.0)[:, None], torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_windows_with_state_equal_one_run(dtype):
    spikes = draw_spikes((21, 3, 37), dtype)
    whole, after = psc(spikes, 3.0, return_state=True)
    state, parts = None, []
    for window in spikes.split([7, 13, 1]):
        part, state = psc(window, 3.0, state, return_state=True)
        parts.append(part)
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(state, after)
    assert after.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_near("psc", whole, reference_psc(exact(spikes), 3.0), dtype)


def test_gradient_within_a_window_stops_at_its_start():
    grad = draw_gradient((13, 3, 37))
    x = draw_gradient((13, 3, 37), seed=1).requires_grad_()
    state = torch.rand(3, 37, dtype=torch.float64, requires_grad=True)
    psc(x, 3.0, state).backward(grad)
    assert_near("gradient", x.grad, psc_backward(exact(grad), 3.0), torch.float64)
    assert state.grad is None


def test_state_is_not_written_to():
    state = torch.rand(3, 37)
    before = state.clone()
    psc(torch.ones(5, 3, 37), 3.0, state)
    assert torch.equal(state, before)


def test_transpose_of_the_transpose_is_the_filter():
    """The gradient can be differentiated again: the filter is linear."""
    x = draw_gradient((9, 1, 3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: psc(x, 3.0), x)
    assert torch.autograd.gradgradcheck(lambda x: psc(x, 3.0), x)
