"""``pytest bench --benchmark-only``: the neuron, forward and backward, under pytest-benchmark."""

import pytest
import torch

from tssl_triton import lif

from .baselines import eager_lif
from .lif import training_step


@pytest.mark.parametrize("function", [lif, eager_lif], ids=["ours", "eager"])
@pytest.mark.parametrize("steps", [5, 20])
def test_lif(benchmark, function, steps):
    y = 1.5 * torch.randn(steps, 10, 32, 28, 28)
    step = training_step(function, y, torch.randn_like(y))
    step()
    benchmark(step)
