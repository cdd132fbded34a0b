"""Tensors that are not simply contiguous: what is copied, what is not, and that the numbers are the same."""

import pytest
import torch
import torch.nn.functional as F
from comparing import assert_close
from judging import assert_agrees, draw_current, draw_gradient, judge, run

from tssl_triton import LIFParameters, LIFState, lif, pack_spikes, psc, unpack_spikes

pytestmark = [pytest.mark.implementation, pytest.mark.usefixtures("poisoned", "eager")]

PARAMS = LIFParameters()


def strided_inputs():
    """The same ``(T, B, C)`` values in memory orders that PyTorch code meets."""
    y = draw_current((9, 4, 6))
    return {
        "batch first": y.transpose(0, 1).contiguous().transpose(0, 1),
        "features before batch": y.transpose(1, 2).contiguous().transpose(1, 2),
        "every second": y.repeat_interleave(2, dim=2)[:, :, ::2],
        "a part of a wider tensor": F.pad(y, (3, 3))[:, :, 3:-3],
        "a later part of a longer run": torch.cat([y, y])[9:],
        "backwards": y.flip(0).flip(0),
    }


@pytest.mark.parametrize("name", strided_inputs())
def test_inputs(name):
    y, grad = strided_inputs()[name], draw_gradient((9, 4, 6))
    plain = draw_current((9, 4, 6))
    assert torch.equal(y, plain)
    assert_agrees(run(y, grad, PARAMS), judge(plain, grad, PARAMS), torch.float64)
    assert torch.equal(psc(y, 3.0), psc(plain, 3.0))
    assert torch.equal(pack_spikes(y), pack_spikes(plain))
    words = pack_spikes(plain)
    assert torch.equal(unpack_spikes(words.transpose(1, 2).contiguous().transpose(1, 2), 9), unpack_spikes(words, 9))


def test_an_input_expanded_over_time_and_over_samples():
    y = draw_current((1, 1, 6)).requires_grad_()
    grad = draw_gradient((9, 4, 6))
    lif(y.expand(9, 4, 6)).backward(grad)
    verdict = judge(y.detach().expand(9, 4, 6), grad, PARAMS)
    assert_close("gradient", y.grad, verdict.grad.sum(axis=(0, 1), keepdims=True), rtol=1e-12, atol=1e-12)


def incoming_gradients():
    """Functions of the spikes whose gradients arrive in odd memory orders."""
    weight = draw_gradient((9, 4, 6))
    return {
        "expanded everywhere": (lambda s: s.sum(), torch.ones(9, 4, 6)),
        "expanded over time": (lambda s: (s.sum(0) * weight[0]).sum(), weight[:1].expand(9, 4, 6)),
        "expanded over samples": (lambda s: (s.sum(1) * weight[:, 0]).sum(), weight[:, :1].expand(9, 4, 6)),
        "batch first": (lambda s: (s.transpose(0, 1) * weight.transpose(0, 1).contiguous()).sum(), weight),
        "features first": (lambda s: (s.permute(2, 0, 1) * weight.permute(2, 0, 1).contiguous()).sum(), weight),
        "a part of it": (lambda s: (s[::2, :, 1:3] * weight[::2, :, 1:3]).sum(), None),
    }


@pytest.mark.parametrize("name", incoming_gradients())
def test_incoming_gradients(name):
    loss, grad = incoming_gradients()[name]
    if grad is None:
        grad = torch.zeros(9, 4, 6, dtype=torch.float64)
        grad[::2, :, 1:3] = draw_gradient((9, 4, 6))[::2, :, 1:3]
    y = draw_current((9, 4, 6))

    leaf = y.clone().requires_grad_()
    loss(lif(leaf)).backward()
    assert_close("lif", leaf.grad, judge(y, grad, PARAMS).grad, rtol=1e-12, atol=1e-12)

    leaf, plain = y.clone().requires_grad_(), y.clone().requires_grad_()
    loss(psc(leaf, 3.0)).backward()
    psc(plain, 3.0).backward(grad.to(torch.float64).contiguous())
    assert_close("psc", leaf.grad, plain.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("T", [5, 40])
def test_channels_last_is_consumed_without_a_copy(T):
    x = torch.randn(T * 2, 3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x, weight = (part.to(memory_format=torch.channels_last) for part in (x, weight))
    y = F.conv2d(x, weight).unflatten(0, (T, 2)).requires_grad_()
    assert y[0].is_contiguous(memory_format=torch.channels_last)
    assert not y.is_contiguous()

    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        spikes, state = lif(y, return_state=True)
    assert y.data_ptr() in [tensor.data_ptr() for tensor in saved]
    assert spikes.stride() == y.stride()
    assert all(part.stride() == y.stride()[1:] for part in state)

    grad = draw_gradient(y.shape)
    (grad_y,) = torch.autograd.grad(spikes, y, grad)
    assert grad_y.stride() == y.stride()
    verdict = judge(y.detach(), grad, PARAMS)
    assert verdict.clear.all()
    assert_close("spikes", spikes, verdict.trace.spikes)
    assert_close("gradient", grad_y, verdict.grad, rtol=1e-11, atol=1e-11)
    contiguous = LIFState(*(part.contiguous() for part in state))
    assert torch.equal(lif(y, state=contiguous), lif(y, state=state))


@pytest.mark.parametrize("shape", [(1, 4, 6), (5, 1, 6), (5, 4, 1), (5, 1, 1), (1, 1, 1)], ids=str)
def test_axes_of_one_element_may_have_any_stride(shape):
    y, grad = draw_current(shape), draw_gradient(shape)
    strides = tuple(977 if size == 1 else stride for size, stride in zip(shape, y.stride(), strict=True))
    buffer = torch.zeros(y.numel(), dtype=torch.float64)
    strange = buffer.as_strided(shape, strides).copy_(y)
    assert_agrees(run(strange, grad, PARAMS), judge(y, grad, PARAMS), torch.float64)
    assert torch.equal(psc(strange, 3.0), psc(y, 3.0))
    assert torch.equal(unpack_spikes(pack_spikes(strange), shape[0]), (y != 0).float())


def test_inputs_are_not_written_to():
    y, grad = draw_current((33, 4, 6)).requires_grad_(), draw_gradient((33, 4, 6))
    before = y.detach().clone(), grad.clone()
    spikes = lif(y)
    kept = spikes.detach().clone()
    spikes.backward(grad)
    psc(spikes.detach(), 3.0)
    assert torch.equal(y.detach(), before[0])
    assert torch.equal(grad, before[1])
    assert torch.equal(spikes, kept)
