"""The Triton kernels on a device, against the reference."""

import pytest
import torch
from judging import DTYPES, RESETS, WARMUPS, Answer, assert_agrees, draw_current, draw_gradient, judge, name_of

from tssl_triton import LIFParameters, LIFState, implementation, lif, pack_spikes, psc, unpack_spikes

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("steps", [1, 5, 8, 9, 33, 100])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_neuron(dtype, steps, reset, warmup):
    params = LIFParameters(reset=reset, warmup=warmup)
    y, grad = draw_current((steps, 3, 333), dtype), draw_gradient((steps, 3, 333), dtype)
    leaf = y.cuda().requires_grad_()
    spikes, state = lif(leaf, params, return_state=True)
    (grad_y,) = torch.autograd.grad(spikes, leaf, grad.cuda())
    answer = Answer(spikes.detach().cpu(), grad_y.cpu(), LIFState(*(part.cpu() for part in state)))
    assert_agrees(answer, judge(y, grad, params), dtype)


@pytest.mark.parametrize("steps", [5, 40])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_spikes_of_one_byte(dtype, steps):
    y = draw_current((steps, 3, 333), torch.float32).cuda()
    want = lif(y)
    assert torch.equal(lif(y, dtype=dtype).to(want.dtype), want)


def test_it_is_triton_that_runs():
    assert implementation("cuda") == "triton"


@pytest.mark.parametrize("steps", [5, 40])
def test_synapse_and_packing_equal_the_cpu_s(steps, monkeypatch):
    monkeypatch.setenv("TSSL_CPU", "eager")
    spikes = (draw_gradient((steps, 2, 1001)) > 0).float()
    words = pack_spikes(spikes.cuda())
    assert torch.equal(words.cpu(), pack_spikes(spikes))
    assert torch.equal(unpack_spikes(words, steps).cpu(), spikes)
    torch.testing.assert_close(psc(spikes.cuda(), 3.0).cpu(), psc(spikes, 3.0), rtol=1e-6, atol=1e-6)


def test_results_are_the_same_bit_for_bit():
    y, grad = draw_current((20, 4, 5000), torch.float32).cuda(), draw_gradient((20, 4, 5000), torch.float32).cuda()
    results = set()
    for _ in range(20):
        leaf = y.clone().requires_grad_()
        lif(leaf).backward(grad)
        results.add(leaf.grad.cpu().numpy().tobytes())
    assert len(results) == 1
