"""Networks built twice, once keeping y and once recomputing it, and what the two must have in common: every bit."""

from __future__ import annotations

import torch

from tssl_triton import LIFParameters, SpikePool2d, SpikingConv2d, SpikingLinear, SpikingSequential, TimeSharedDropout

CHOICES = (False, True)


def linear(recompute):
    return SpikingSequential(SpikingLinear(72, 9, bias=True, weight_scale=3.0, recompute=recompute))


def strided(recompute):
    options = {"stride": (2, 1), "padding": (1, 2), "bias": True, "weight_scale": 3.0, "recompute": recompute}
    return SpikingSequential(SpikingConv2d(2, 5, (3, 2), LIFParameters(reset="subtract"), **options))


def deep(kind):
    def build(recompute):
        return SpikingSequential(
            SpikingConv2d(2, 4, 3, padding=1, weight_scale=2.0, recompute=recompute),
            SpikePool2d(2, kind),
            TimeSharedDropout(0.2),
            SpikingConv2d(4, 6, 2, bias=True, weight_scale=3.0, recompute=recompute),
            SpikingLinear(24, 8, weight_scale=3.0, recompute=recompute),
            TimeSharedDropout(0.2),
            SpikingLinear(8, 5, LIFParameters(warmup="silent"), bias=True, weight_scale=3.0, recompute=recompute),
        )

    build.__name__ = f"deep_{kind}"
    return build


NETWORKS = [linear, strided, deep("sum"), deep("average"), deep("max")]


def draw(steps, dtype=torch.float32):
    generator = torch.Generator().manual_seed(steps)
    return torch.randn((steps, 3, 2, 6, 6), generator=generator).to(dtype)


def seeded(build, recompute):
    """A network, and the same dropout masks and upstream gradients from here on, whichever it is."""
    torch.manual_seed(5)
    net = build(recompute)
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.uniform_(parameter, 0.0, 0.4)
    return net


def backward_of(spikes):
    generator = torch.Generator().manual_seed(7)
    spikes.backward(torch.randn(spikes.shape, generator=generator).to(spikes.dtype))


def assert_identical(results):
    saved, recomputed = results
    assert saved[0].any(), "a silent network tests nothing"
    for k, (want, got) in enumerate(zip(saved, recomputed, strict=True)):
        assert want.any(), f"result {k} is zero throughout"
        assert got.dtype == want.dtype
        assert got.stride() == want.stride()
        assert torch.equal(got, want), f"result {k}"


def gradients(net):
    return [parameter.grad for parameter in net.parameters()]
