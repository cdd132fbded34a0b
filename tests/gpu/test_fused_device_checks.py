"""The checks of `tests/gpu/test_fused.py`, under the interpreter at tiny sizes, and shown to fail where they should."""

import fused_on_device
import pytest
import torch
from fused_on_device import (
    check_determinism,
    check_flips,
    check_fused_autocast,
    check_fused_layer,
    check_memory,
    check_recomputing,
    currents,
    drawn_spikes,
)

from tssl_triton import SpikingConv2d, SpikingLinear

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
interpreted = pytest.mark.interpret


def linear(dtype=torch.float32):
    torch.manual_seed(0)
    return SpikingLinear(17, 16, weight_scale=2.0).to(dtype), (17,), 9, 3


def convolution(dtype=torch.float32):
    torch.manual_seed(0)
    return SpikingConv2d(3, 5, 3, padding=1, weight_scale=2.0).to(dtype), (3, 3, 3), 3, 1


@interpreted
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [linear, convolution])
def test_against_composed_layers(make, dtype, monkeypatch):
    # The interpreter cuts bfloat16 off where PyTorch rounds: some more neurons are decided unlike, of far fewer.
    monkeypatch.setattr(fused_on_device, "UNLIKE", dict.fromkeys(DTYPES, 0.3))
    check_fused_layer(*make(dtype), "cpu")


@interpreted
def test_a_wrong_product_is_noticed(monkeypatch):
    def spoilt(layer, spikes):
        own, product = currents(layer, spikes)
        own[-1, -1, -1] += 0.01
        return own, product

    monkeypatch.setattr(fused_on_device, "currents", spoilt)
    with pytest.raises(AssertionError, match="y"):
        check_fused_layer(*linear(), "cpu")


@interpreted
def test_a_wrong_gradient_is_noticed(monkeypatch):
    learnt = fused_on_device.learnt

    def spoilt(layer, spikes, grad, how):
        out, grad_weight, grad_x = learnt(layer, spikes, grad, how)
        return [out, grad_weight, grad_x * (1.001 if how == "always" else 1.0)]

    monkeypatch.setattr(fused_on_device, "learnt", spoilt)
    with pytest.raises(AssertionError, match=r"gradient of the input differs by 1\.0e-03"):
        check_fused_layer(*linear(), "cpu")


def test_a_flip_must_be_explained_by_y():
    layer = SpikingLinear(2, 2)
    # u = y / tau_syn at the first step, for the threshold 1.
    near, far = layer.params.tau_syn * torch.tensor([1 + 1e-6, 1.1])
    spike, none = torch.ones(1, 1), torch.zeros(1, 1)
    check_flips(layer, near.view(1, 1), near.view(1, 1), none, spike)
    check_flips(layer, far.view(1, 1), far.view(1, 1) - 0.3, none, spike)
    with pytest.raises(AssertionError, match="beyond what y explains"):
        check_flips(layer, far.view(1, 1), far.view(1, 1), none, spike)


@interpreted
@pytest.mark.parametrize("make", [linear, convolution])
def test_recomputing_and_determinism(make):
    check_recomputing(*make(), "cpu")
    check_determinism(*make(), "cpu", runs=2)


@interpreted
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_autocast(dtype):
    check_fused_autocast("cpu", dtype, size=16, batch=3)


@pytest.mark.parametrize(
    ("wrong", "figures"),
    [
        (False, [(1000, 3000), (1000, 2000), (90, 2000)]),
        (True, [(1000, 3000), (1000, 10**6), (90, 2000)]),
        (True, [(1000, 3000), (1000, 2000), (110, 2000)]),
        (True, [(1000, 3000), (10**6, 2000), (90, 2000)]),
    ],
)
def test_memory(wrong, figures):
    left = iter(figures)

    def memory(forward):
        assert forward().requires_grad
        return next(left)

    if not wrong:
        return check_memory("cpu", memory, size=8, batch=2, steps=5)
    with pytest.raises(AssertionError):
        check_memory("cpu", memory, size=8, batch=2, steps=5)


def test_drawn_spikes_are_as_the_weights():
    layer, features, steps, batch = linear(torch.float16)
    spikes = drawn_spikes(layer, features, steps, batch)
    assert spikes.dtype == torch.float16
    assert 0.2 < float(spikes.dense().float().mean()) < 0.4
