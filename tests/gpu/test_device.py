"""Living with a device: streams, several devices, memory that runs out, the compiler, autocast."""

import gc

import pytest
import torch
from on_device import answers, check_autocast, check_compiled, check_recovery, check_same_answers

from tssl_triton import lif

pytestmark = pytest.mark.gpu

SLEEP = 200_000_000
"""Cycles, about a tenth of a second: long after the host has queued everything else."""


def test_a_stream_of_one_s_own():
    want = answers("cuda")
    with torch.cuda.stream(torch.cuda.Stream()):
        got = answers("cuda", lambda: torch.cuda._sleep(SLEEP))
    check_same_answers(got, want)


def test_two_streams_at_once():
    want = answers("cuda")
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    y = torch.randn(40, 3, 1001, device="cuda")
    torch.cuda.synchronize()
    single = lif(y)
    results = []
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            results.append(lif(y))
    torch.cuda.synchronize()
    assert all(torch.equal(result, single) for result in results)
    check_same_answers(answers("cuda"), want)


def test_a_device_that_is_not_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two devices, torch sees {torch.cuda.device_count()}")
    with torch.cuda.device(0):
        check_same_answers(answers("cuda:1"), answers("cuda:0"))
        assert torch.cuda.current_device() == 0


def test_an_allocation_that_cannot_be_met():
    # The layer has 3 x 1024 neurons of float32.
    too_many = 2 * torch.cuda.get_device_properties(0).total_memory // (4 * 3 * 1024)
    allocated = []
    for _ in range(2):
        check_recovery("cuda", too_many, torch.OutOfMemoryError)
        gc.collect()
        allocated.append(torch.cuda.memory_allocated())
    # The first round may leave what libraries keep for good; the second leaves nothing.
    assert allocated[1] <= allocated[0]


def test_memory_that_runs_out_in_backward():
    y = torch.randn(5, 1, 1 << 24, device="cuda")
    grad = torch.randn_like(y)

    def gradient(fraction=1.0):
        leaf = y.clone().requires_grad_()
        spikes = lif(leaf)
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(fraction or torch.cuda.memory_reserved() / total)
        spikes.backward(grad)
        return leaf.grad

    total = torch.cuda.get_device_properties(0).total_memory
    want = gradient()
    try:
        with pytest.raises(torch.OutOfMemoryError):
            gradient(fraction=0.0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.equal(gradient(), want)


def test_compile():
    check_compiled("cuda", "inductor")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    check_autocast("cuda", dtype)
