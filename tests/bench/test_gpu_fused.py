"""`bench gpu` for fused layers, whose kernels a CPU has only under the interpreter: the gate, and the work timed."""

import pytest
import torch

from bench.gpu import fused_gate as gpu_fused_gate
from bench.gpu.cases import FusedCase
from bench.gpu.fused_gate import answer, complaints

pytestmark = pytest.mark.interpret

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    """An interpreted kernel takes milliseconds for each of its products."""
    monkeypatch.setattr(gpu_fused_gate, "STEPS", (3,))
    monkeypatch.setattr(gpu_fused_gate, "BATCH", 1)
    monkeypatch.setattr(gpu_fused_gate, "CHANNELS", 17)
    monkeypatch.setattr(gpu_fused_gate, "NEURONS", 19)
    monkeypatch.setattr(gpu_fused_gate, "KERNELS", {"spike_linear": (1, 1), "spike_conv2d 3x3": (3, 3)})


def test_the_gate_lets_the_right_results_through():
    assert complaints(CPU) == []


def later(x):
    """Everything one step too late."""
    return x.roll(1, 0)


@pytest.mark.parametrize(
    ("which", "spoil", "word"),
    [
        (0, lambda y: y * 1.02, "y"),
        (0, later, "y"),
        (1, lambda spikes: 1 - spikes, "spikes"),
        (1, later, "spikes"),
        (2, lambda grad: grad * 1.02, "weight gradient"),
        (2, lambda grad: grad * torch.nan, "weight gradient"),
    ],
)
def test_the_gate_stops_a_wrong_result(which, spoil, word, monkeypatch):
    monkeypatch.setattr(gpu_fused_gate, "KERNELS", {"spike_linear": (1, 1)})

    def spoilt(layer, device):
        results = list(answer(layer, device))
        results[which] = spoil(results[which])
        return tuple(results)

    found = complaints(CPU, spoilt)
    assert len(found) >= 2
    assert any(line.startswith(f"spike_linear {word}, ") for line in found)


@pytest.mark.parametrize("kernel", ["forward", "forward, recompute", "weight gradient"])
@pytest.mark.parametrize("layer", ["spike_linear", "spike_conv2d 3x3"])
def test_the_work_that_is_timed(layer, kernel):
    work = FusedCase(f"{layer} {kernel}", torch.float32, 1, 1024).prepare(CPU)
    work()
