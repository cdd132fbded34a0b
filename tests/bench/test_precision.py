"""Whole networks in 32 and 16 bits against the reference in float64: the bounds that the documentation states."""

import pytest
import torch

from bench import precision

#: Relative L2 error of every weight's gradient, over the samples in which no spike flips: a few roundings of y and of
#: the error on its way back, 2^-12 or 2^-9 each, which 1/du magnifies. Weight gradients added up in 16 bits would pass
#: the bound of theirs.
BOUNDS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
#: Neuron-steps whose spike flips: y is rounded by 2^-12 or 2^-9 of itself and meets the threshold that often.
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
