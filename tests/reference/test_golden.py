"""The reference against the numbers that the authors' released program printed, see golden/README.md."""

from pathlib import Path

import numpy as np
import pytest
from comparing import relative_error
from tssl_triton.reference import (
    Conv2d,
    Linear,
    Pool,
    lif_backward,
    lif_backward_from_psc,
    lif_forward,
    psc_backward,
    run_network,
)

GOLDEN = Path(__file__).parents[1] / "golden"
NEURONS = sorted(GOLDEN.glob("neuron_*.npz"))
NETWORKS = sorted(GOLDEN.glob("network_*.npz"))

# Their float32 sums over time and neurons are what limits the agreement.
TOLERANCE = 2e-6


def constants(case):
    return {
        "tau_mem": float(case["tau_m"]),
        "tau_syn": float(case["tau_s"]),
        "threshold": float(case["threshold"]),
    }


def layers_of(case):
    """The layers that the case's architecture string names; Conv2d has no padding in any of them."""
    tokens = str(case["layers"]).split("-")
    if tokens[0].isdigit():
        tokens = tokens[1:]  # the number of inputs
    layers, weighted = [], 0
    for token in tokens:
        if token.startswith("P"):
            layers.append(Pool(int(token[1:]), scale=float(case["pool_weight"])))
            continue
        weight = case[f"weight_{weighted}"]
        layers.append(Conv2d(weight) if weight.ndim == 4 else Linear(weight))
        weighted += 1
    return layers


def test_all_golden_cases_are_here():
    assert len(NEURONS) == 6
    assert len(NETWORKS) == 2


@pytest.mark.parametrize("path", NEURONS, ids=lambda path: path.stem)
def test_neuron(path):
    case = np.load(path)
    trace = lif_forward(case["current"], synapse=False, **constants(case))
    from_psc = lif_backward_from_psc(trace, case["grad_psc"], synapse=False, **constants(case))
    grad_spikes = psc_backward(case["grad_psc"], float(case["tau_s"]))
    from_spikes = lif_backward(trace, grad_spikes, synapse=False, **constants(case))

    assert trace.spikes.any()
    assert relative_error(trace.psc, case["psc"]) < TOLERANCE
    assert relative_error(from_psc, case["grad_current"]) < TOLERANCE
    assert relative_error(from_spikes, case["grad_current"]) < TOLERANCE


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_network(path):
    case = np.load(path)
    result = run_network(layers_of(case), case["input"], case["target_spikes"], **constants(case))

    assert result.spikes.any()
    assert relative_error(result.loss, case["loss"]) < TOLERANCE
    assert relative_error(result.psc, case["output_psc"]) < TOLERANCE
    weighted = [name for name in case.files if name.startswith("weight_")]
    assert len(result.weight_grads) == len(weighted)
    for k, grad in enumerate(result.weight_grads):
        assert relative_error(grad, case[f"grad_{k}"]) < TOLERANCE, f"weight {k}"


@pytest.mark.parametrize(
    "change", [{"variant": "paper"}, {"warmup": "off"}, {"warmup": "silent"}, {"reset": "subtract"}], ids=str
)
def test_the_golden_cases_tell_every_option_from_the_released_program(change):
    case = np.load(GOLDEN / "neuron_01.npz")
    reset = {"reset": change["reset"]} if "reset" in change else {}
    trace = lif_forward(case["current"], synapse=False, **constants(case), **reset)
    grad = lif_backward_from_psc(trace, case["grad_psc"], synapse=False, **constants(case), **change)
    assert relative_error(grad, case["grad_current"]) > 1e-2
