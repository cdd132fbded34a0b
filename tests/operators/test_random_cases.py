"""Cases that Hypothesis draws: any length, size, type and constants against the reference."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judging import DTYPES, RESETS, VARIANTS, WARMUPS, assert_agrees, draw_current, draw_gradient, judge, run

from tssl_triton import LIFParameters, pack_spikes, unpack_spikes

pytestmark = [pytest.mark.implementation, pytest.mark.usefixtures("eager")]

# The fixture only sets an environment variable, which every example may share.
drawn = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

parameters = st.builds(
    LIFParameters,
    tau_mem=st.floats(1.0, 50.0),
    tau_syn=st.floats(1.0, 20.0),
    threshold=st.floats(0.1, 3.0),
    reset=st.sampled_from(RESETS),
    max_slope=st.floats(0.5, 20.0),
    warmup=st.sampled_from(WARMUPS),
    variant=st.sampled_from(VARIANTS),
)


@drawn
@given(
    params=parameters,
    steps=st.integers(1, 70),
    shape=st.sampled_from([(1, 1), (2, 3), (1, 17), (3, 1, 5), (2, 2, 3, 2)]),
    dtype=st.sampled_from(DTYPES),
    synapse=st.booleans(),
    scale=st.floats(0.1, 4.0),
    seed=st.integers(0, 2**20),
)
def test_neuron(params, steps, shape, dtype, synapse, scale, seed):
    y = (scale * draw_current((steps, *shape), seed=seed)).to(dtype)
    grad = draw_gradient((steps, *shape), dtype, seed=seed)
    # With so few neurons one that is too near the threshold to judge may be all there are.
    answer, verdict = run(y, grad, params, synapse=synapse), judge(y, grad, params, synapse=synapse)
    assert_agrees(answer, verdict, dtype, unclear=1.0)


@drawn
@given(steps=st.integers(1, 100), neurons=st.integers(1, 40), seed=st.integers(0, 2**20))
def test_packing(steps, neurons, seed):
    spikes = (draw_gradient((steps, 1, neurons), seed=seed) > 0).float()
    assert torch.equal(unpack_spikes(pack_spikes(spikes), steps), spikes)
