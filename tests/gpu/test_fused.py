"""Fused layers on a device at production sizes, against composed ones."""

import benches  # noqa: F401 - finds bench
import pytest
import torch
from fused_on_device import (
    check_determinism,
    check_fused_autocast,
    check_fused_layer,
    check_memory,
    check_recomputing,
)
from judging import name_of
from on_device import check_same_answers, launches_by_name, learnt

from bench.common.graphs import WARMUP, captured
from bench.common.steps import TrainingStep
from bench.launches import count
from tssl_triton import SpikingConv2d, SpikingLinear
from tssl_triton.training.presets import EXPERIMENTS

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("exact_products")]

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LAYERS = {
    "1024": (lambda: SpikingLinear(1024, 1024, weight_scale=2.0), (1024,), 5, 256),
    "1024, T = 100": (lambda: SpikingLinear(1024, 1024, weight_scale=2.0), (1024,), 100, 256),
    "odd sizes": (lambda: SpikingLinear(1001, 517, weight_scale=2.0), (1001,), 33, 67),
    "1024C3": (lambda: SpikingConv2d(512, 1024, 3, padding=1, weight_scale=2.0), (512, 8, 8), 5, 50),
    "256C5": (lambda: SpikingConv2d(128, 256, 5, padding=2, weight_scale=2.0), (128, 16, 16), 5, 50),
}


def made(name, dtype=torch.float32):
    make, *sizes = LAYERS[name]
    torch.manual_seed(0)
    return make().to(dtype), *sizes


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("name", LAYERS)
def test_against_composed_layers(name, dtype, record_property, request):
    if dtype == torch.float32:
        request.getfixturevalue("exact_convolutions")
    record_property("flipped neurons", check_fused_layer(*made(name, dtype), "cuda"))


@pytest.mark.parametrize("name", LAYERS)
def test_recomputing_is_the_same_bit_for_bit(name):
    check_recomputing(*made(name), "cuda")


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("name", ["1024", "1024C3"])
def test_twenty_runs_are_the_same_bit_for_bit(name, dtype):
    check_determinism(*made(name, dtype), "cuda")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=name_of)
def test_autocast(dtype):
    check_fused_autocast("cuda", dtype)


def memory(forward):
    """Bytes allocated between forward and backward, and at most, beyond those before."""
    spikes = forward()
    spikes.backward(torch.ones_like(spikes))
    del spikes
    torch.cuda.synchronize()
    # A second time, when libraries have their workspace and the weights their gradients.
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    spikes = forward()
    held = torch.cuda.memory_allocated() - before
    spikes.backward(torch.ones_like(spikes))
    torch.cuda.synchronize()
    return held, torch.cuda.max_memory_allocated() - before


def test_memory():
    check_memory("cuda", memory)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_captured_step_learns_what_an_eager_one_does(name):
    def make():
        return TrainingStep(name, 8, "cuda", fused="always")

    losses, *weights = learnt(make, lambda step: step, WARMUP + 5)
    replayed, *after = learnt(make, captured, 5)
    check_same_answers([replayed, *after], [losses[WARMUP:], *weights])
    assert replayed.isfinite().all()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_launches_are_those_counted_without_a_device(name):
    step = TrainingStep(name, 4, "cuda", fused="always")
    step()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    names = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    if not names:
        pytest.skip("the profiler saw no kernels here")
    expected, found = count(name, 4, "always").launches, launches_by_name(names)
    assert found["spike_weighted_kernel"] == expected["fused forward"]
    assert found["weight_gradient_kernel"] == expected["weight gradient"]
    assert found["lif_forward_kernel"] == expected["lif forward"]
    assert found["unpack_kernel"] == expected["pack, unpack"]
