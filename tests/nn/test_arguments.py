"""Bad arguments: each is named, with what came and what is accepted."""

import math

import numpy as np
import pytest
import torch

from tssl_triton import (
    LIF,
    SLAYER,
    STBP,
    LIFParameters,
    LIFState,
    SpikePool2d,
    SpikingConv2d,
    SpikingLinear,
    SpikingRecurrent,
    SpikingSequential,
    StaticInput,
    TimeSharedDropout,
    lif,
    pack_spikes,
    psc,
    unpack_spikes,
)

Y = torch.zeros(5, 2, 3)


def state(shape=(2, 3), **other):
    return LIFState(**({name: torch.zeros(shape) for name in LIFState._fields} | other))


@pytest.mark.parametrize("name", ["tau_mem", "tau_syn", "threshold", "max_slope"])
@pytest.mark.parametrize("value", [-1.0, 0, 0.0, math.nan, math.inf, -math.inf])
def test_numbers_out_of_range(name, value):
    if (name, value) == ("tau_mem", math.inf):
        assert LIFParameters(tau_mem=value).alpha == 1  # a membrane without leak
        return
    with pytest.raises(ValueError, match=rf"{name} must be a finite number .*got {float(value)!r}"):
        LIFParameters(**{name: value})


def test_a_time_constant_below_one_step():
    with pytest.raises(ValueError, match=r"tau_syn must be a finite number >= 1 \(time steps\), got 0.5"):
        LIFParameters(tau_syn=0.5)
    assert LIFParameters(tau_syn=1).beta == 0


@pytest.mark.parametrize("value", ["5", None, True, [5.0]])
def test_parameters_that_are_no_numbers(value):
    with pytest.raises(TypeError, match="tau_mem must be a real number"):
        LIFParameters(tau_mem=value)


@pytest.mark.parametrize("name", ["reset", "warmup", "variant"])
def test_unknown_options(name):
    with pytest.raises(ValueError, match=f"{name} must be one of '.*', got 'soft'"):
        LIFParameters(**{name: "soft"})
    with pytest.raises(TypeError, match=f"{name} must be one of '.*', got 1"):
        LIFParameters(**{name: 1})


@pytest.mark.parametrize(
    ("current", "error", "message"),
    [
        ([1.0], TypeError, r"current must be a tensor \(T, B, \*\), got list"),
        (torch.zeros(5), ValueError, r"current must be time-major with at least 2 axes \(T, B\), got shape \(5,\)"),
        (torch.zeros(5, 2, dtype=torch.int64), TypeError, "current must be one of torch.float32, .*got torch.int64"),
        (torch.zeros(5, 2, dtype=torch.complex64), TypeError, "current must be .*got torch.complex64"),
        (torch.zeros(0, 2, 3), ValueError, r"current must hold at least one time step, got T = 0 in shape \(0, 2, 3\)"),
        (torch.zeros(5, 2, device="meta"), ValueError, "current must be on a CPU, CUDA or ROCm device, got meta"),
    ],
)
def test_currents(current, error, message):
    with pytest.raises(error, match=message):
        lif(current)
    if not (isinstance(current, torch.Tensor) and current.dim() == 1):
        with pytest.raises(error, match=message.replace("current", "spikes")):
            psc(current, 3.0)


def test_parameters_of_another_kind():
    with pytest.raises(TypeError, match="params must be LIFParameters, got dict"):
        lif(Y, {"tau_mem": 5.0})
    with pytest.raises(TypeError, match="params must be LIFParameters, got float"):
        SpikingLinear(3, 4, 5.0)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (torch.zeros(2, 3), TypeError, r"state must be a LIFState \(current, membrane, psc\), got Tensor"),
        (state((2, 4)), ValueError, r"state.current must have shape \(2, 3\), got \(2, 4\)"),
        (state(membrane=None), TypeError, r"state.membrane must be a tensor of shape \(2, 3\), got NoneType"),
        (state(psc=torch.zeros(2, 3).int()), TypeError, "state.psc must be a floating tensor, got torch.int32"),
        (state(psc=torch.zeros(2, 3, device="meta")), ValueError, "state.psc must be on cpu as the input is, got meta"),
    ],
)
def test_states(given, error, message):
    with pytest.raises(error, match=message):
        lif(Y, state=given)


def test_psc():
    with pytest.raises(ValueError, match="tau_syn must be a finite number >= 1"):
        psc(Y, -3.0)
    with pytest.raises(ValueError, match=r"state must have shape \(2, 3\), got \(3,\)"):
        psc(Y, 3.0, state=torch.zeros(3))


def test_packing():
    with pytest.raises(TypeError, match=r"dtype must be torch.int32, torch.int16 or torch.uint8, got torch.int64"):
        pack_spikes(Y, torch.int64)
    with pytest.raises(ValueError, match=r"dtype torch.uint8 holds at most 8 steps, got T = 9; use torch.int32"):
        pack_spikes(torch.zeros(9, 2), torch.uint8)
    with pytest.raises(TypeError, match=r"words must be torch.int32, .*got torch.float32"):
        unpack_spikes(Y, 5)
    with pytest.raises(ValueError, match="words must hold 33 steps, got 1 words of 32 bits"):
        unpack_spikes(torch.zeros(1, 2, dtype=torch.int32), 33)
    with pytest.raises(ValueError, match="words must hold 9 steps, got 1 words of 8 bits"):
        unpack_spikes(torch.zeros(1, 2, dtype=torch.uint8), 9)
    with pytest.raises(TypeError, match=r"dtype must be a torch\.dtype, got 'float32'"):
        unpack_spikes(torch.zeros(1, 2, dtype=torch.int32), 5, "float32")
    with pytest.raises(ValueError, match="steps must be an integer >= 1, got 0"):
        unpack_spikes(torch.zeros(0, 2, dtype=torch.int32), 0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SpikingLinear(0, 3), ValueError, "in_features must be an integer >= 1, got 0"),
        (lambda: SpikingLinear(3, 2.5), TypeError, "out_features must be an integer >= 1, got 2.5"),
        (
            lambda: SpikingLinear(3, 3, weight_scale=math.nan),
            ValueError,
            "weight_scale must be a finite number, got nan",
        ),
        (lambda: SpikingLinear(3, 3, rule="hebb"), ValueError, "rule must be one of 'tssl', .*, got 'hebb'"),
        (lambda: LIF(rule=3), TypeError, "rule must be one of 'tssl', 'stbp', 'slayer' or a rule such as .*, got 3"),
        (lambda: lif(Y, rule="hebb"), ValueError, "rule must be one of 'tssl', .*, got 'hebb'"),
        (lambda: STBP("gauss"), ValueError, "surrogate must be one of 'rectangular', .*, got 'gauss'"),
        (lambda: STBP(width=0), ValueError, "width must be a finite number > 0, got 0.0"),
        (lambda: STBP(width="1"), TypeError, "width must be a real number > 0, got '1'"),
        (
            lambda: STBP(reset_gradient="none"),
            ValueError,
            "reset_gradient must be one of 'full', 'detached', got 'none'",
        ),
        (lambda: SLAYER(width=math.nan), ValueError, "width must be a finite number > 0, got nan"),
        (lambda: SLAYER(scale=-1), ValueError, "scale must be a finite number > 0, got -1.0"),
        (lambda: SpikingConv2d(1, 2, (3, 3, 3)), TypeError, "kernel_size must be an integer >= 1 or a pair of them"),
        (lambda: SpikingConv2d(1, 2, 3, padding=-1), ValueError, "padding must be an integer >= 0, got -1"),
        (lambda: SpikePool2d(2, "median"), ValueError, "kind must be one of 'sum', 'average', 'max', got 'median'"),
        (lambda: SpikePool2d(2, scale=math.inf), ValueError, "scale must be a finite number, got inf"),
        (lambda: TimeSharedDropout(1.0), ValueError, "p must be a number with 0 <= p < 1, got 1.0"),
        (lambda: TimeSharedDropout("a"), TypeError, "p must be a number with 0 <= p < 1, got 'a'"),
        (lambda: StaticInput(Y, 0), ValueError, "steps must be an integer >= 1, got 0"),
        (lambda: StaticInput([1.0], 5), TypeError, r"values must be a tensor \(B, \*features\), got list"),
        (lambda: SpikingLinear(4, 2)(Y), ValueError, r"x must be \(T, B, \*\) with 4 features in all, got 3 in shape"),
        (
            lambda: SpikingConv2d(1, 2, (3, 1))(torch.zeros(5, 2, 1, 2, 8)),
            ValueError,
            r"x must hold images that a kernel of \(3, 1\) fits into with padding \(0, 0\), got shape",
        ),
        (
            lambda: SpikingLinear(3, 2)(Y.double()),
            TypeError,
            r"x must be torch\.float32 as the layer's weight is, got torch\.float64",
        ),
        (lambda: SpikingRecurrent(3, 2)(Y.half()), TypeError, r"x must be torch\.float32 .*, got torch\.float16"),
        (lambda: SpikingConv2d(1, 2, 3)(Y), ValueError, r"x must be \(T, B, 1, H, W\), got shape \(5, 2, 3\)"),
        (lambda: SpikePool2d(4)(torch.zeros(5, 2, 1, 3, 8)), ValueError, "with H >= 4 and W >= 4, got shape"),
        (lambda: LIF()(torch.zeros(3)), ValueError, "current must be time-major with at least 2 axes"),
        (lambda: SpikingSequential(LIF())(Y, state=[]), ValueError, "state must hold one entry per layer, 1, got 0"),
        (lambda: SpikingSequential(LIF())(Y, state=5), TypeError, "state must be a sequence of one entry .*, got int"),
        (lambda: SpikingLinear(3, 3, bias="no"), TypeError, "bias must be True or False, got 'no'"),
        (lambda: SpikingConv2d(3, 3, 3, bias=1), TypeError, "bias must be True or False, got 1"),
        (lambda: SpikingRecurrent(3, 3, bias=None), TypeError, "bias must be True or False, got None"),
        (lambda: LIF(synapse="x"), TypeError, "synapse must be True or False, got 'x'"),
        (lambda: lif(Y, synapse=None), TypeError, "synapse must be True or False, got None"),
        (
            lambda: LIF(learn=("tau_mem",), per="neuron", shape=5),
            TypeError,
            "shape must be a sequence of integers >= 1, got 5",
        ),
        (
            lambda: SpikingLinear(3, 2.5, learn=("tau_mem",), per="neuron"),
            TypeError,
            "out_features must be an integer >= 1, got 2.5",
        ),
        (lambda: SpikingLinear(4, 3, learn=[[1]]), ValueError, r"learn must be a sequence of names .*, got \[\[1\]\]"),
    ],
)
def test_layers(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_numbers_of_numpy_s():
    layer = SpikingLinear(np.prod((2, 3)), np.int32(4))
    assert (type(layer.in_features), type(layer.out_features)) == (int, int)
    assert SpikingConv2d(1, 2, np.int64(3)).kernel_size == (3, 3)
    assert type(StaticInput(Y[0], np.int64(5)).steps) is int
    assert SpikePool2d(2, scale=np.float32(1.5)).scale == 1.5
    assert unpack_spikes(pack_spikes(Y), np.int64(5)).shape == Y.shape
    assert lif(StaticInput(Y[0], np.int64(5))).shape == Y.shape
