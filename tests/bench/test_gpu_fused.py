"""`bench gpu` for fused layers, under Triton's interpreter: the check of results, and the timed work."""

from dataclasses import replace

import pytest
import torch

from bench.gpu import gate
from bench.gpu.cases import FusedCase
from bench.gpu.gate import layer_answer, layer_mismatches

pytestmark = pytest.mark.interpret

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    """Small layers: an interpreted kernel takes milliseconds for each product."""
    monkeypatch.setattr(gate, "STEPS", (3,))
    monkeypatch.setattr(gate, "BATCH", 1)
    monkeypatch.setattr(gate, "CHANNELS", 17)
    monkeypatch.setattr(gate, "OUTPUTS", 19)
    monkeypatch.setattr(gate, "LAYERS", {"spike_linear": (1, 1), "spike_conv2d 3x3": (3, 3)})


def test_right_results_pass():
    assert layer_mismatches(CPU) == []


def later(x):
    """The result, one step too late."""
    return x.roll(1, 0)


@pytest.mark.parametrize(
    ("which", "spoil", "word"),
    [
        ("y", lambda y: y * 1.02, "y"),
        ("y", later, "y"),
        ("spikes", lambda spikes: 1 - spikes, "spikes"),
        ("spikes", later, "spikes"),
        ("grad_weight", lambda grad: grad * 1.02, "weight gradient"),
        ("grad_weight", lambda grad: grad * torch.nan, "weight gradient"),
    ],
)
def test_wrong_results_are_reported(which, spoil, word, monkeypatch):
    monkeypatch.setattr(gate, "LAYERS", {"spike_linear": (1, 1)})

    def spoilt(layer, device):
        right = layer_answer(layer, device)
        return replace(right, **{which: spoil(getattr(right, which))})

    found = layer_mismatches(CPU, spoilt)
    assert len(found) >= 2
    assert any(line.startswith(f"spike_linear {word}, ") for line in found)


@pytest.mark.parametrize("kernel", ["forward", "forward, recompute", "weight gradient"])
@pytest.mark.parametrize("layer", ["spike_linear", "spike_conv2d 3x3"])
def test_timed_work_runs(layer, kernel):
    work = FusedCase(f"{layer} {kernel}", torch.float32, 1, 1024).prepare(CPU)
    work()
