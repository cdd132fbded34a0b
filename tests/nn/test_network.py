"""Architecture strings: what they build, and where their errors point."""

import pytest
import torch

from tssl_triton import LIFParameters
from tssl_triton.encoding import static
from tssl_triton.nn import (
    ArchitectureError,
    SpikePool2d,
    SpikingConv2d,
    SpikingLinear,
    TimeSharedDropout,
    build_network,
    parse_architecture,
)
from tssl_triton.training.presets import EXPERIMENTS


def weight_shapes(network):
    return [tuple(weight.shape) for weight in network.parameters()]


@pytest.mark.parametrize(
    ("architecture", "in_shape", "padding", "weights"),
    [
        ("400-400", (1, 28, 28), 0, [(400, 784), (400, 400), (10, 400)]),
        ("400-400", (784,), 0, [(400, 784), (400, 400), (10, 400)]),
        ("15C5-P2-40C5-P2-300", (1, 28, 28), 0, [(15, 1, 5, 5), (40, 15, 5, 5), (300, 640), (10, 300)]),
        ("12C5-P2-64C5-P2", (2, 34, 34), (1, 0), [(12, 2, 5, 5), (64, 12, 5, 5), (10, 2304)]),
        (
            "32C5-P2-64C5-P2-1024",
            (1, 28, 28),
            2,
            [(32, 1, 5, 5), (64, 32, 5, 5), (1024, 3136), (10, 1024)],
        ),
        (
            "96C3-256C3-P2-384C3-P2-384C3-256C3-1024-1024",
            (3, 32, 32),
            1,
            [
                (96, 3, 3, 3),
                (256, 96, 3, 3),
                (384, 256, 3, 3),
                (384, 384, 3, 3),
                (256, 384, 3, 3),
                (1024, 16384),
                (1024, 1024),
                (10, 1024),
            ],
        ),
        (
            "128C3-256C3-P2-512C3-P2-1024C3-512C3-1024-512",
            (3, 32, 32),
            "same",
            [
                (128, 3, 3, 3),
                (256, 128, 3, 3),
                (512, 256, 3, 3),
                (1024, 512, 3, 3),
                (512, 1024, 3, 3),
                (1024, 32768),
                (512, 1024),
                (10, 512),
            ],
        ),
    ],
)
def test_architectures_of_the_paper(architecture, in_shape, padding, weights):
    # Without the values: CNN 2 alone has 54 million weights.
    with torch.device("meta"):
        network = build_network(architecture, in_shape, 10, padding=padding)
    assert weight_shapes(network) == weights


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_can_be_built(name):
    experiment = EXPERIMENTS[name]
    params = LIFParameters(tau_mem=experiment.tau_mem, tau_syn=experiment.tau_syn)
    with torch.device("meta"):
        network = build_network(
            experiment.architecture, experiment.in_shape, 10, params=params, padding=experiment.padding
        )
    assert network[0].params == params
    assert network[-1].out_features == 10


@pytest.mark.parametrize("steps", [1, 5])
def test_a_built_network_runs_on_tensors_and_static_input(steps):
    torch.manual_seed(0)
    network = build_network("4C3-P2-6C3-20", (2, 12, 12), 7)
    values = torch.randn(3, 2, 12, 12)
    spikes = network(static(values, steps))
    assert spikes.shape == (steps, 3, 7)
    assert set(spikes.unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(spikes, network(static(values, steps).dense()))


def test_layers_carry_the_options():
    params = LIFParameters(tau_mem=8, tau_syn=2)
    network = build_network("4C3-P3-20-30", (1, 13, 9), 5, params=params, padding="same", pool="max", dropout=0.25)
    kinds = [type(layer) for layer in network]
    assert kinds == [
        SpikingConv2d,
        SpikePool2d,
        TimeSharedDropout,
        SpikingLinear,
        TimeSharedDropout,
        SpikingLinear,
        TimeSharedDropout,
        SpikingLinear,
    ]
    assert all(layer.params == params for layer in network if isinstance(layer, (SpikingConv2d, SpikingLinear)))
    assert network[0].padding == (1, 1)
    assert network[1].kind == "max"
    assert network[2].p == 0.25
    assert network[3].in_features == 4 * 4 * 3, "13 // 3 by 9 // 3, what is left over is cut off"


def test_weight_scale_multiplies_the_initial_weights():
    torch.manual_seed(1)
    plain = build_network("20", (30,), 5)
    torch.manual_seed(1)
    scaled = build_network("20", (30,), 5, weight_scale=3.0)
    for one, three in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(three, 3 * one)


@pytest.mark.parametrize(
    ("architecture", "position", "problem"),
    [
        ("15C5-Q2-300", 6, "token 'Q2' is not a convolution like 15C5, a pooling like P2 or a number of neurons"),
        ("15C5-P2-", 9, "empty token; expected a convolution like 15C5"),
        ("", 1, "empty token; expected"),
        ("15C5--300", 6, "empty token; expected"),
        ("15c5-300", 1, "token '15c5' is not"),
        ("15C5 -300", 1, "token '15C5 ' is not"),
        ("C5", 1, "token 'C5' is not"),
        ("15C", 1, "token '15C' is not"),
        ("28x28-300", 1, "token '28x28' is not"),
        ("300-1.5", 5, "token '1.5' is not"),
        ("300-\u0663", 5, "token '\u0663' is not"),
        ("0", 1, "the numbers of token '0' must be >= 1"),
        ("300-0C5", 5, "the numbers of token '0C5' must be >= 1"),
        ("15C5-P0", 6, "the numbers of token 'P0' must be >= 1"),
    ],
)
def test_parsing_errors_point_at_the_token(architecture, position, problem):
    with pytest.raises(ArchitectureError) as caught:
        parse_architecture(architecture)
    assert_points_at(caught.value, architecture, position, problem)


@pytest.mark.parametrize(
    ("architecture", "padding", "position", "problem"),
    [
        ("15C5-300-P2", 0, 10, r"pooling 'P2' needs an input (C, H, W), but here the input is flat, (300,)"),
        ("300-15C5", 0, 5, "convolution '15C5' needs an input (C, H, W)"),
        ("15C9-P2", 0, 1, "the 9x9 window of '15C9' does not fit its input, 8x8"),
        ("15C5-40C5", 0, 6, "the 5x5 window of '40C5' does not fit its input, 4x4"),
        ("15C13-300", 2, 1, "the 13x13 window of '15C13' does not fit its input, 8x8 with padding 2"),
        ("15C5-P5", 0, 6, "the 5x5 window of 'P5' does not fit its input, 4x4"),
        ("P2-P2-P2-P2", 0, 10, "the 2x2 window of 'P2' does not fit its input, 1x1"),
        ("15C3-15C4", "same", 6, "padding 'same' needs an odd kernel, '15C4' has 4"),
    ],
)
def test_building_errors_point_at_the_token(architecture, padding, position, problem):
    with pytest.raises(ArchitectureError) as caught:
        build_network(architecture, (1, 8, 8), 10, padding=padding)
    assert_points_at(caught.value, architecture, position, problem)


def assert_points_at(error, architecture, position, problem):
    first, quoted, underline = str(error).splitlines()
    assert first.startswith(f"architecture: {problem}")
    assert quoted == f"    {architecture}"
    assert underline.index("^") == 4 + position - 1
    assert underline.endswith(f"^ position {position}")
    assert error.position == position
    token = architecture[position - 1 :].split("-")[0]
    assert underline.count("^") == max(len(token), 1)
    assert isinstance(error, ValueError)


def test_flat_input_takes_no_convolution():
    with pytest.raises(ArchitectureError, match=r"convolution '15C5' needs .* flat, \(784,\)"):
        build_network("15C5", (784,), 10)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"architecture": 300}, TypeError, "architecture must be a string like '15C5-P2-300', got int"),
        ({"in_shape": (28, 28)}, ValueError, r"in_shape must be \(C, H, W\) or \(N,\), integers >= 1, got \(28, 28\)"),
        ({"in_shape": (1, 28, 0)}, ValueError, r"in_shape must be .* got \(1, 28, 0\)"),
        ({"in_shape": 784}, TypeError, "in_shape must be .* got 784"),
        ({"classes": 0}, ValueError, "classes must be an integer >= 1, got 0"),
        ({"classes": 10.0}, TypeError, r"classes must be an integer >= 1, got 10\.0"),
        ({"padding": -1}, ValueError, "padding must be an integer >= 0, 'same' or .* got -1"),
        ({"padding": "valid"}, ValueError, "padding must be .* got 'valid'"),
        ({"padding": 1.0}, TypeError, r"padding must be .* got 1\.0"),
        ({"padding": (1, 2)}, ValueError, "padding has 2 entries, but '8C3-20' has 1 convolutions"),
        ({"padding": ("full",)}, ValueError, "padding must be .* got 'full'"),
        ({"pool": "min"}, ValueError, "pool must be one of 'sum', 'average', 'max', got 'min'"),
        ({"dropout": 1.0}, ValueError, r"dropout must be in \[0, 1\), got 1\.0"),
        ({"dropout": "half"}, TypeError, r"dropout must be a number in \[0, 1\), got 'half'"),
        ({"rule": "hebb"}, ValueError, "rule"),
        ({"weight_scale": float("nan")}, ValueError, "weight_scale"),
    ],
)
def test_bad_arguments(change, error, message):
    arguments = {"architecture": "8C3-20", "in_shape": (1, 8, 8), "classes": 10} | change
    with pytest.raises(error, match=message):
        build_network(**arguments)
