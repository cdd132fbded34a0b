"""Networks in float32, float16 and bfloat16 compared with float64: the bounds stated in the documentation."""

import pytest
import torch

from bench import precision

#: Relative L2 error of every weight's gradient, over samples without flipped spikes: a few roundings of y and of the
#: gradient, 2^-12 or 2^-9 each, amplified by 1/du. Weight gradients accumulated in 16 bits would exceed it.
BOUNDS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
#: Fraction of flipped spikes: rounding by 2^-12 or 2^-9 moves y across the threshold that often.
FLIPS = {torch.float32: 1e-4, torch.float16: 1e-3, torch.bfloat16: 5e-3}


@pytest.fixture(autouse=True)
def _eager(eager):
    pass


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("architecture", precision.NETWORKS)
def test_gradients_of_a_network(architecture, dtype):
    row = precision.network(architecture, dtype, samples=40)
    assert 0 < row.error <= BOUNDS[dtype]
    assert row.flipped <= FLIPS[dtype]
    assert row.left_out <= 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", precision.NETWORKS)
def test_gradients_under_autocast(architecture, dtype):
    row = precision.network(architecture, dtype, autocast=True, samples=40)
    assert 0 < row.error <= BOUNDS[dtype]
    assert row.flipped <= FLIPS[dtype]
    assert row.left_out <= 0.5
