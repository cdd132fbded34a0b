"""Layers that recompute have the gradients of layers that keep y, bit for bit, on whatever runs the neurons."""

import pytest
import torch
from recomputing import CHOICES, assert_identical, backward_of, deep, draw, gradients, linear, seeded, strided

from tssl_triton import encoding


@pytest.fixture(autouse=True)
def _eager(eager):
    pass


@pytest.mark.parametrize(
    ("build", "steps", "static"),
    [
        (linear, 1, False),
        (linear, 35, False),
        (strided, 8, True),
        (strided, 9, False),
        (deep("sum"), 5, True),
        (deep("average"), 5, False),
        (deep("max"), 9, True),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_gradients_are_those_of_the_kept_y(build, steps, static):
    results = []
    for recompute in CHOICES:
        net = seeded(build, recompute)
        x = draw(1 if static else steps).mul_(2.0).requires_grad_()
        spikes = net(encoding.static(x[0], steps) if static else x)
        backward_of(spikes)
        results.append([spikes.detach(), x.grad, *gradients(net)])
    assert_identical(results)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_tensors(dtype):
    results = []
    for recompute in CHOICES:
        net = seeded(deep("sum"), recompute).to(dtype)
        x = draw(9, dtype).mul_(2.0).requires_grad_()
        spikes = net(x)
        backward_of(spikes)
        results.append([spikes.detach(), x.grad, *gradients(net)])
    assert_identical(results)


@pytest.mark.parametrize(("build", "steps"), [(strided, 9), (deep("sum"), 5), (deep("max"), 5)])
def test_channels_last(build, steps):
    results = []
    for recompute in CHOICES:
        net = seeded(build, recompute).to(memory_format=torch.channels_last)
        dense = draw(steps).mul_(2.0).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        x = dense.unflatten(0, (steps, 3)).requires_grad_()
        assert not x.is_contiguous()
        spikes = net(x)
        backward_of(spikes)
        results.append([spikes.detach(), x.grad, *gradients(net)])
    assert_identical(results)


@pytest.mark.parametrize("build", [linear, strided], ids=lambda build: build.__name__)
def test_windows_of_a_sequence(build):
    results = []
    for recompute in CHOICES:
        net = seeded(build, recompute).eval()
        states, parts, state = [], [], None
        for part in draw(16).mul_(2.0).split([6, 9, 1]):
            spikes, state = net(part, state, return_state=True)
            parts.append(spikes)
            states += [s for layer in state if layer is not None for s in layer]
        assert not any(s.requires_grad for s in states)
        backward_of(torch.cat(parts))
        results.append([torch.cat(parts).detach(), *states, *gradients(net)])
    assert_identical(results)
