"""The neuron and the layers on a device at the sizes of CIFAR-10's CNN 2, and beyond 2^31 elements."""

import math

import benches  # noqa: F401 - finds bench
import pytest
import torch
from judging import name_of
from on_device import GOLDEN, check_golden_network, check_layer_from_bits, check_repeated_neurons

from bench.common.steps import BATCH, layer_shapes
from tssl_triton import LIFParameters, SpikingConv2d, SpikingLinear

pytestmark = pytest.mark.gpu

LAYERS = layer_shapes("cifar10-cnn2")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("layer", range(len(LAYERS)), ids=lambda k: f"{k}-" + "x".join(map(str, LAYERS[k])))
def test_layers_of_cnn_2(layer, dtype):
    params = LIFParameters(tau_mem=5.0, tau_syn=2.0)
    # At tau_syn = 2 a spike of two steps ago leaves exactly warm-up's bound, which the judge takes for undecided.
    check_repeated_neurons("cuda", 5, BATCH * math.prod(LAYERS[layer]), dtype, params, unclear=0.4)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("steps", [1, 8, 9, 33, 100, 300])
def test_long_runs(steps, reset, dtype):
    check_repeated_neurons("cuda", steps, BATCH * 1024 + 13, dtype, LIFParameters(reset=reset), sample=24)


@pytest.mark.parametrize(
    ("steps", "neurons", "dtype"),
    [
        # Only T N passes 2^31; N itself does; and offsets in bytes pass 2^33.
        (5, 2**31 // 5 + 1_000_003, torch.float16),
        (1, 2**31 + 1_000_003, torch.float16),
        (12, 2**31 // 12 + 1_000_003, torch.float32),
    ],
)
def test_more_than_two_to_the_31_elements(steps, neurons, dtype):
    # Input, gradient, and both results; new state and bits; a row of comparisons.
    needed = neurons * (4 * steps * dtype.itemsize + 12 + 12 * steps // 8 + 4)
    free = torch.cuda.mem_get_info()[0]
    if free < 1.1 * needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of device memory, {free / 2**30:.0f} GiB are free")
    check_repeated_neurons("cuda", steps, neurons, dtype)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("network_*.npz")), ids=lambda path: path.stem)
@pytest.mark.usefixtures("exact_convolutions")
def test_networks_of_the_released_program(path):
    check_golden_network(path, "cuda")


@pytest.mark.parametrize(
    ("make", "features"),
    [
        (lambda: SpikingConv2d(128, 256, 3, padding=1, weight_scale=2.0), (128, 32, 32)),
        (lambda: SpikingConv2d(512, 1024, 3, padding=1, weight_scale=2.0), (512, 8, 8)),
        (lambda: SpikingLinear(512 * 8 * 8, 1024, weight_scale=2.0), (512, 8, 8)),
    ],
    ids=["256C3", "1024C3", "1024"],
)
@pytest.mark.usefixtures("exact_products")
def test_layers_learn_the_same_from_bits(make, features):
    torch.manual_seed(0)
    check_layer_from_bits(make(), features, 5, 10, "cuda")
