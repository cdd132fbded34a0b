"""Operators and layers against the numbers that the authors' released program printed, see golden/README.md."""

from pathlib import Path

import numpy as np
import pytest
import torch
from comparing import relative_error

from tssl_triton import LIFParameters, SpikePool2d, SpikingConv2d, SpikingLinear, SpikingSequential, lif, psc

pytestmark = [pytest.mark.implementation, pytest.mark.usefixtures("poisoned", "eager")]

GOLDEN = Path(__file__).parents[1] / "golden"
NEURONS = sorted(GOLDEN.glob("neuron_*.npz"))
NETWORKS = sorted(GOLDEN.glob("network_*.npz"))

# Two float32 programs that add up in different orders, over time, weights and samples.
TOLERANCE = 2e-6


def parameters(case):
    return LIFParameters(float(case["tau_m"]), float(case["tau_s"]), float(case["threshold"]))


def check_neuron(path):
    case = np.load(path)
    params = parameters(case)
    current = torch.from_numpy(case["current"]).requires_grad_()
    a = psc(lif(current, params, synapse=False), params.tau_syn)
    a.backward(torch.from_numpy(case["grad_psc"]))

    assert case["psc"].any()
    assert relative_error(a, case["psc"]) < TOLERANCE
    assert relative_error(current.grad, case["grad_current"]) < TOLERANCE


def network_of(case):
    """The layers that the case's architecture string names, with its weights."""
    params, layers, weighted = parameters(case), [], 0
    tokens = str(case["layers"]).split("-")
    if tokens[0].isdigit():
        tokens = tokens[1:]  # the number of inputs
    for token in tokens:
        if token.startswith("P"):
            layers.append(SpikePool2d(int(token[1:]), scale=float(case["pool_weight"])))
            continue
        weight = torch.from_numpy(case[f"weight_{weighted}"])
        out, into, *kernel = weight.shape
        layers.append(SpikingConv2d(into, out, tuple(kernel), params) if kernel else SpikingLinear(into, out, params))
        layers[-1].weight = torch.nn.Parameter(weight)
        weighted += 1
    return SpikingSequential(*layers)


def check_network(path):
    case = np.load(path)
    network = network_of(case)
    spikes = network(torch.from_numpy(case["input"]))
    a = psc(spikes, float(case["tau_s"]))
    target = psc(torch.from_numpy(case["target_spikes"]).float(), float(case["tau_s"]))
    loss = 0.5 * (a - target).square().sum()
    loss.backward()

    assert spikes.any()
    assert relative_error(loss, case["loss"]) < TOLERANCE
    assert relative_error(a, case["output_psc"]) < TOLERANCE
    weights = list(network.parameters())
    assert len(weights) == sum(name.startswith("weight_") for name in case.files)
    for k, weight in enumerate(weights):
        assert relative_error(weight.grad, case[f"grad_{k}"]) < TOLERANCE, f"weight {k}"


@pytest.mark.parametrize("path", NEURONS, ids=lambda path: path.stem)
def test_neuron(path):
    check_neuron(path)


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_network(path):
    check_network(path)
