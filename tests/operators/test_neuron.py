"""The neuron, forward and backward, against the reference in float64."""

import itertools
import math

import numpy as np
import pytest
import torch
from judging import (
    DTYPES,
    RESETS,
    STEPS,
    VARIANTS,
    WARMUPS,
    assert_agrees,
    assert_near,
    draw_current,
    draw_gradient,
    judge,
    name_of,
    run,
)

from tssl_triton import LIFParameters, lif
from tssl_triton.encoding import static

pytestmark = [pytest.mark.implementation, pytest.mark.usefixtures("poisoned", "eager")]


def check(shape, dtype, params, synapse=True, seed=0):
    y, grad = draw_current(shape, dtype, seed), draw_gradient(shape, dtype, seed)
    verdict = judge(y, grad, params, synapse=synapse)
    assert verdict.trace.spikes.any()
    assert not verdict.trace.spikes.all()
    assert_agrees(run(y, grad, params, synapse=synapse), verdict, dtype)


def every_option():
    """All combinations; those of long runs whose options shorter runs have shown are slow, of 16 bits all of these."""
    for dtype, T, reset, variant, warmup in itertools.product(DTYPES, STEPS, RESETS, VARIANTS, WARMUPS):
        long = STEPS[3:] if dtype.itemsize == 2 else (31, 33, 64, 100)
        shown = T in long and (variant, warmup) != ("released", "psc")
        yield pytest.param(dtype, T, reset, variant, warmup, marks=[pytest.mark.slow] if shown else [])


@pytest.mark.parametrize(("dtype", "T", "reset", "variant", "warmup"), list(every_option()))
def test_every_option(dtype, T, reset, variant, warmup):
    check((T, 3, 37), dtype, LIFParameters(reset=reset, variant=variant, warmup=warmup), seed=T)


@pytest.mark.parametrize("T", [300, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("reset", ["zero", pytest.param("subtract", marks=pytest.mark.slow)])
def test_hundreds_of_steps(reset, T):
    check((T, 1, 7), torch.float64, LIFParameters(reset=reset), seed=T)


# Neuron counts around a block of 128 and beyond it, prime, and of more axes than two.
@pytest.mark.parametrize("shape", [(1, 127), (1, 129), (7, 53), (3, 4, 5, 6), (2, 3, 5, 1, 9)], ids=str)
@pytest.mark.parametrize("T", [5, 33])
def test_shapes(T, shape):
    check((T, *shape), torch.float64, LIFParameters(), seed=T)


@pytest.mark.parametrize(
    "constants",
    [
        {"tau_mem": 1.0, "tau_syn": 3.0},  # a membrane without memory
        {"tau_mem": 5.0, "tau_syn": 1.0},  # a synapse without memory
        {"tau_mem": math.inf, "tau_syn": 1.0},  # integrate and fire: a membrane without leak
        {"tau_mem": 16.0, "tau_syn": 2.5},
        {"tau_mem": 2.3, "tau_syn": 7.1, "threshold": 0.4},
        {"threshold": 2.0, "max_slope": 0.75},
        {"max_slope": 1e6},
    ],
    ids=str,
)
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("T", [5, 40])
def test_constants(T, reset, constants):
    check((T, 3, 37), torch.float64, LIFParameters(reset=reset, **constants), seed=T)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("T", [1, 5, 33])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_without_synapse(dtype, T, reset):
    check((T, 3, 37), dtype, LIFParameters(reset=reset), synapse=False, seed=T)


@pytest.mark.parametrize("synapse", [True, False])
@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("T", [1, 2, 5, 16, 33, *(pytest.param(T, marks=pytest.mark.slow) for T in (17, 64))])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=name_of)
def test_one_input_for_all_steps(dtype, T, warmup, synapse):
    params = LIFParameters(warmup=warmup, reset="subtract")
    # Weaker than elsewhere: 0.3 from rest takes some steps to reach the threshold.
    y = (0.4 * draw_current((1, 3, 37), dtype, seed=T)[0]).requires_grad_()
    grad = draw_gradient((T, 3, 37), dtype, seed=T)
    dense = y.detach().expand(T, 3, 37)
    verdict = judge(dense, grad, params, synapse=synapse)

    spikes = lif(static(y, T), params, synapse=synapse)
    spikes.backward(grad)
    assert spikes.shape == (T, 3, 37)
    assert (spikes.detach().double().numpy() == verdict.trace.spikes)[:, verdict.clear].all()
    # The sum over time may cancel: its error is relative to its largest term, too.
    total = verdict.grad.sum(axis=0)
    scale = np.maximum(np.abs(total), np.abs(verdict.grad).max(axis=0))
    assert_near("gradient", y.grad[None], total[None], dtype, verdict.clear, scale)


def test_what_is_judged_can_fail():
    """The tolerances tell each option from the others."""
    y, grad = draw_current((33, 3, 37)), draw_gradient((33, 3, 37))
    answer = run(y, grad, LIFParameters())
    for change in ({"variant": "paper"}, {"warmup": "off"}, {"warmup": "silent"}, {"reset": "subtract"}):
        with pytest.raises(AssertionError):
            assert_agrees(answer, judge(y, grad, LIFParameters(**change)), torch.float64)


def test_memory_that_nobody_has_written_is_poisoned():
    assert torch.empty(3).isnan().all()
    assert torch.empty_strided((2, 3), (3, 1), dtype=torch.float16).isnan().all()
    assert (torch.empty(3, dtype=torch.uint8) == 255).all()
