"""Exported graphs run by other simulators, as these read them themselves, spike for spike; and one of theirs run here.

Norse and snnTorch step CubaLIF as `nir_euler` does: the new synaptic current enters the membrane in the same step, a
spike is strictly above the threshold, and the reset, to 0, follows at once.
"""

import contextlib
import io

import pytest
import torch
from torch import nn

from tests.interchange.nir_networks import (
    MARGIN,
    NETWORKS,
    STEPS,
    assert_fires,
    linear,
    made,
    notation,
    poolings_in_a_row,
    spike_trains,
    spikes_of,
)
from tssl_triton import LIFParameters, SpikingLinear, SpikingSequential
from tssl_triton.interchange import from_nir, to_nir

nir = pytest.importorskip("nir", reason="needs the extra interchange")
from tests.interchange.nir_euler import EulerRun  # noqa: E402

#: Seconds per step that snnTorch's reader and writer assume.
SNNTORCH_DT = 1e-4


@pytest.fixture(autouse=True)
def _eager(eager):
    """Eager PyTorch: compiling takes longer than these tests, and the results are the same."""


@pytest.fixture(scope="module")
def norse():
    pytest.importorskip("nirtorch", reason="needs the extra peers")
    return pytest.importorskip("norse.torch", reason="needs the extra peers")


@pytest.fixture(scope="module")
def snntorch():
    pytest.importorskip("nirtorch", reason="needs the extra peers")
    pytest.importorskip("snntorch.import_nir", reason="needs the extra peers")
    return pytest.importorskip("snntorch", reason="needs the extra peers")


def through_a_file(graph, tmp_path):
    nir.write(tmp_path / "network.nir", graph)
    return nir.read(tmp_path / "network.nir")


def stepped(network, x, is_neuron):
    """Spikes of every layer of neurons of another program's network, run step by step."""
    layers = [module for module in network.modules() if is_neuron(module)]
    seen = {layer: [] for layer in layers}

    def record(layer, arguments, result):
        seen[layer].append(result[0] if isinstance(result, tuple) else result)

    hooks = [layer.register_forward_hook(record) for layer in layers]
    state = None
    with torch.no_grad():
        for step in x:
            _, state = network(step, state)
    for hook in hooks:
        hook.remove()
    assert all(len(steps) == STEPS for steps in seen.values())
    return [torch.stack(steps) for steps in seen.values()]


def assert_same_spikes(theirs, ours):
    """Match layers by their spikes, as other programs may order their layers differently."""
    assert_fires(ours)
    assert len(theirs) == len(ours)
    by_shape = {tuple(spikes.shape): spikes for spikes in theirs}
    assert len(by_shape) == len(theirs)
    for number, spikes in enumerate(ours):
        differing = int((by_shape[tuple(spikes.shape)] != spikes).sum())
        assert differing == 0, f"layer {number}: {differing} of {spikes.numel()} differ"


@pytest.mark.parametrize("network", [linear, notation, poolings_in_a_row])
def test_norse_fires_the_same_spikes(norse, network, tmp_path):
    """Norse does not read AvgPool2d or the resistance of LIF; those networks are tested with snnTorch."""
    from norse.torch.utils.import_nir import CubaLIF

    shape, layers = made(network)
    x = spike_trains(shape)
    graph = through_a_file(to_nir(layers, shape), tmp_path)
    assert EulerRun(graph, x, 1e-3).margin > MARGIN
    theirs = stepped(norse.from_nir(graph), x, lambda module: isinstance(module, CubaLIF))
    assert_same_spikes(theirs, spikes_of(layers, x))


@pytest.mark.filterwarnings("ignore:NIR has no reset by subtraction")
def test_norse_fires_the_same_spikes_if_told_to_reset_by_subtraction(norse):
    from norse.torch.functional.reset import reset_subtract
    from norse.torch.utils.import_nir import CubaLIF

    torch.manual_seed(0)
    params = LIFParameters(reset="subtract")
    layers = SpikingSequential(SpikingLinear(30, 20, params, weight_scale=3), SpikingLinear(20, 5, params))
    x = spike_trains((30,))
    graph = to_nir(layers, (30,))
    assert EulerRun(graph, x, 1e-3, subtract=True).margin > MARGIN
    read = norse.from_nir(graph, reset_method=reset_subtract)
    theirs = stepped(read, x, lambda module: isinstance(module, CubaLIF))
    assert_same_spikes(theirs, spikes_of(layers, x))


@pytest.mark.parametrize("network", NETWORKS)
def test_snntorch_fires_the_same_spikes(snntorch, network, tmp_path):
    shape, layers = made(network)
    x = spike_trains(shape)
    graph = through_a_file(to_nir(layers, shape, SNNTORCH_DT), tmp_path)
    assert EulerRun(graph, x, SNNTORCH_DT).margin > MARGIN
    with contextlib.redirect_stdout(io.StringIO()):
        read = snntorch.import_nir.import_from_nir(graph)
    theirs = stepped(read, x, lambda module: isinstance(module, snntorch.SpikingNeuron))
    assert_same_spikes(theirs, spikes_of(layers, x))


def test_a_network_of_snntorch_fires_the_same_spikes_here(snntorch):
    from snntorch.export_nir import export_to_nir

    def neurons(alpha, beta, threshold):
        options = {
            "threshold": torch.full((20,), threshold),
            "reset_mechanism": "zero",
            "reset_delay": False,
            "init_hidden": True,
        }
        return snntorch.Synaptic(torch.full((20,), alpha), torch.full((20,), beta), **options)

    torch.manual_seed(0)
    theirs = nn.Sequential(
        nn.Linear(30, 20), neurons(0.5, 0.75, 3.0), nn.Linear(20, 20, bias=False), neurons(0.75, 0.875, 2.0)
    )
    for layer in (theirs[0], theirs[2]):
        nn.init.normal_(layer.weight, 0.02, 0.25)
    graph = export_to_nir(theirs, torch.zeros(30))
    x = spike_trains((30,))
    for layer in (theirs[1], theirs[3]):
        layer.reset_mem()
    with torch.no_grad():
        expected = torch.stack([theirs(step) for step in x])
    ours = from_nir(graph, SNNTORCH_DT)
    assert [layer.params.tau_mem for layer in ours] == pytest.approx([4, 8])
    assert [layer.params.tau_syn for layer in ours] == pytest.approx([2, 4])
    assert EulerRun(graph, x, SNNTORCH_DT).margin > MARGIN
    assert_fires([expected])
    assert torch.equal(ours(x), expected)
