"""The checks of `tests/gpu`, made on the CPU at tiny sizes, and shown to fail where they should."""

import contextlib

import benches  # noqa: F401 - finds bench
import pytest
import torch
from on_device import (
    GOLDEN,
    KERNELS,
    answers,
    check_autocast,
    check_compiled,
    check_golden_network,
    check_layer_from_bits,
    check_recovery,
    check_repeated_neurons,
    check_repeats,
    check_same_answers,
    launches_by_name,
    learnt,
    repeated,
)

from bench.common.graphs import captured
from bench.common.steps import TrainingStep
from bench.common.tracing import KERNELS as TRACED
from tssl_triton import LIFParameters, SpikingConv2d, SpikingLinear

pytestmark = pytest.mark.usefixtures("eager")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("steps", "neurons"), [(5, 100), (12, 37), (3, 20)])
def test_repeated_neurons(steps, neurons, dtype):
    check_repeated_neurons("cpu", steps, neurons, dtype, LIFParameters(reset="subtract"), period=37, sample=9)


def test_a_neuron_that_does_not_repeat_is_noticed():
    rows = repeated(torch.randn(3, 7), 24)
    check_repeats("rows", rows, 7)
    for column in (9, 23):
        wrong = rows.clone()
        wrong[1, column] += 1
        with pytest.raises(AssertionError, match="rows at step 1"):
            check_repeats("rows", wrong, 7)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("network_*.npz")), ids=lambda path: path.stem)
def test_golden_networks(path):
    check_golden_network(path, "cpu")


@pytest.mark.parametrize(
    ("layer", "features"),
    [
        (SpikingLinear(30, 20, weight_scale=2.0), (30,)),
        (SpikingConv2d(3, 5, 3, padding=1, weight_scale=2.0), (3, 6, 6)),
    ],
)
def test_layers_from_bits(layer, features):
    check_layer_from_bits(layer, features, 5, 2, "cpu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    check_autocast("cpu", dtype)


def test_compile():
    check_compiled("cpu", "aot_eager")


def test_recovery():
    check_recovery("cpu", 2**50, RuntimeError)


def test_answers():
    done = []
    check_same_answers(answers("cpu", lambda: done.append(1)), answers("cpu"))
    assert done == [1]


def test_learning_is_the_same_twice():
    def make(seed=0):
        return TrainingStep("fashion-mnist", 2, seed=seed)

    first, again = (learnt(make, lambda step: step, 3) for _ in range(2))
    check_same_answers(first, again)
    assert len(first) == 1 + 3
    assert len(set(first[0].tolist())) > 1, "the weights change, and the loss with them"
    with pytest.raises(AssertionError):
        check_same_answers(first, learnt(lambda: make(1), lambda step: step, 3))


def test_launches_are_found_among_a_profiler_s_names():
    names = ["lif_forward_kernel", "void cutlass::gemm<...>(...)", "lif_backward_kernel_0d1d", "lif_forward_kernel"]
    assert launches_by_name(names) == {"lif_forward_kernel": 2, "lif_backward_kernel": 1}
    # No name may be a part of another: "unpack_kernel" holds "pack_kernel", which no training step launches.
    assert set(KERNELS) == set(TRACED) - {"pack_kernel"}


def test_capture_in_its_order(monkeypatch):
    """What `captured` asks of torch.cuda, and when; that a device does it is shown by tests/gpu/test_training.py."""
    done = []

    class Stream:
        def wait_stream(self, other):
            done.append("wait")

    class Graph:
        def replay(self):
            done.append("replay")

    @contextlib.contextmanager
    def inside(name):
        done.append(f"{name} begins")
        yield
        done.append(f"{name} ends")

    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: inside("stream"))
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: inside("graph"))
    step = TrainingStep("fashion-mnist", 1)
    losses = []

    class Step:
        inputs, optimizer = step.inputs, step.optimizer

        def __call__(self):
            done.append("step" if any(w.grad is not None for w in step.network.parameters()) else "step from None")
            losses.append(step())
            return losses[-1]

    replay = captured(Step(), warmup=2)
    assert replay() is replay() is losses[-1]
    warm_up = ["wait", "stream begins", "step from None", "step", "stream ends", "wait"]
    assert done == [*warm_up, "graph begins", "step from None", "graph ends", "replay", "replay"]
