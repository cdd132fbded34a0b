"""NIR: an exported graph has the network's spikes by NIR's equations, and its import returns the network."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.interchange.nir_networks import (
    MARGIN,
    NETWORKS,
    assert_fires,
    convolutions,
    made,
    notation,
    poolings_in_a_row,
    spike_trains,
    spikes_of,
)
from tssl_triton import (
    LIF,
    LIFParameters,
    SpikePool2d,
    SpikingConv2d,
    SpikingLinear,
    SpikingRecurrent,
    SpikingSequential,
    TimeSharedDropout,
)
from tssl_triton._extras import MissingExtraError
from tssl_triton.interchange import InterchangeError, from_nir, to_nir
from tssl_triton.interchange.neurons import neuron_node, read_neurons

nir = pytest.importorskip("nir", reason="needs the extra interchange")
from tests.interchange.nir_euler import EulerRun  # noqa: E402


@pytest.fixture(autouse=True)
def _eager(eager):
    """Eager PyTorch: compiling takes longer than these tests, and the results are the same."""


def by_file(graph, tmp_path):
    nir.write(tmp_path / "network.nir", graph)
    return nir.read(tmp_path / "network.nir")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("dt", [1e-3, 1e-4])
def test_the_graph_means_the_network(network, dt):
    shape, layers = made(network)
    x = spike_trains(shape)
    ours = spikes_of(layers.double(), x.double())
    theirs = EulerRun(to_nir(layers, shape, dt), x, dt)
    assert_fires(ours)
    assert theirs.margin > 1e-9, "no spike hangs on rounding"
    assert len(ours) == len(theirs.spikes)
    for got, want in zip(theirs.spikes.values(), ours, strict=True):
        np.testing.assert_array_equal(got, want.numpy())


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("through", ["memory", "file"])
def test_a_network_comes_back_as_it_was(network, through, tmp_path):
    shape, layers = made(network)
    graph = to_nir(layers, shape)
    returned = from_nir(graph if through == "memory" else by_file(graph, tmp_path))
    x = spike_trains(shape)
    spikes = spikes_of(layers, x)
    assert_fires(spikes)
    for got, want in zip(spikes_of(returned, x), spikes, strict=True):
        assert torch.equal(got, want)
    kept = [layer for layer in layers.modules() if not isinstance(layer, (SpikingSequential, TimeSharedDropout))]
    assert list(map(repr, returned)) == list(map(repr, kept))
    for got, want in zip(returned, kept, strict=True):
        for name in ("params", "rule", "synapse", "recompute", "fused"):
            assert getattr(got, name, None) == getattr(want, name, None)
    for got, want in zip(returned.parameters(), layers.parameters(), strict=True):
        assert got.dtype == want.dtype
        assert torch.equal(got, want)


def test_a_layer_that_comes_twice_is_written_twice():
    torch.manual_seed(0)
    shared = SpikingLinear(16, 16, weight_scale=3.0)
    network = SpikingSequential(shared, shared, SpikingSequential(shared))
    x = spike_trains((16,))
    (spikes,) = network(x)[None]
    assert_fires([spikes])
    returned = from_nir(to_nir(network, (16,)))
    assert len(returned) == 3
    assert torch.equal(returned(x), spikes)
    pool = SpikePool2d(2, "average")
    graph = to_nir(SpikingSequential(pool, pool, SpikingLinear(8, 3)), (2, 8, 8))
    assert sum(type(node).__name__ == "AvgPool2d" for node in graph.nodes.values()) == 2


def test_a_graph_that_comes_back_is_written_the_same():
    shape, layers = made(convolutions)
    one = to_nir(layers, shape)
    two = to_nir(from_nir(one), shape)
    assert one.edges == two.edges
    for name, node in one.nodes.items():
        np.testing.assert_equal(two.nodes[name].to_dict(), node.to_dict())


def test_reading_draws_no_random_numbers():
    shape, layers = made(notation)
    graph = to_nir(layers, shape)
    before = torch.get_rng_state()
    from_nir(graph)
    assert torch.equal(torch.get_rng_state(), before)


def test_writing_leaves_the_network_alone():
    shape, layers = made(notation)
    graph = to_nir(layers, shape)
    before = [weights.clone() for weights in layers.parameters()]
    for node in graph.nodes.values():
        if hasattr(node, "weight"):
            node.weight[...] = 0
    assert all(map(torch.equal, layers.parameters(), before))


def test_the_constants_of_a_node_by_hand():
    params = LIFParameters(tau_mem=4, tau_syn=2, threshold=1.5)
    graph = to_nir(SpikingSequential(SpikePool2d(2), SpikingLinear(8, 3, params)), (2, 4, 4))
    assert graph.edges == list(itertools.pairwise(("input", "sumpool2d", "flatten", "linear", "cubalif", "output")))
    node = graph.nodes["cubalif"]
    for name, value in {
        "tau_mem": 0.004, "tau_syn": 0.002, "r": 4, "w_in": 1, "v_leak": 0, "v_threshold": 1.5, "v_reset": 0,
    }.items():  # fmt: skip
        np.testing.assert_array_equal(getattr(node, name), np.full(3, value))
    assert (graph.nodes["flatten"].start_dim, graph.nodes["flatten"].end_dim) == (-3, -1)
    assert tuple(graph.nodes["sumpool2d"].kernel_size) == tuple(graph.nodes["sumpool2d"].stride) == (2, 2)


def test_the_scale_of_a_pooling_is_in_the_next_weights():
    shape, layers = made(poolings_in_a_row)
    weight = to_nir(layers, shape).nodes["linear"].weight
    assert weight.dtype == np.float64
    np.testing.assert_allclose(weight, 1.1 * 0.7 * layers[-1].weight.detach().double().numpy(), rtol=1e-15)


def test_weights_come_back_through_a_scale_to_the_bit():
    """For weights of every magnitude, whatever the rounding of the scale."""
    numbers = torch.randint(2**31, (2000, 64), dtype=torch.int32).view(torch.float32)
    numbers = torch.where(numbers.isfinite(), numbers, 1.0)
    for scale in (1.1, 0.3, 1 / 3, 7.0):
        layers = SpikingSequential(SpikePool2d(2, scale=scale), SpikingLinear(64, 2000))
        layers[1].weight.data = numbers
        returned = from_nir(to_nir(layers, (64, 2, 2)))
        assert torch.equal(returned[1].weight, numbers)
        assert returned[0].scale == scale


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_weights(dtype, tmp_path):
    torch.manual_seed(0)
    layers = SpikingSequential(SpikingConv2d(1, 4, 3, bias=True, weight_scale=2), SpikingLinear(4 * 36, 5)).to(dtype)
    returned = from_nir(by_file(to_nir(layers, (1, 8, 8)), tmp_path))
    for got, want in zip(returned.parameters(), layers.parameters(), strict=True):
        assert got.dtype == dtype
        assert torch.equal(got, want)


def test_kernels_that_are_not_square(tmp_path):
    """nir uses the height as the width in its size computation, so its own check rejects such files."""
    torch.manual_seed(0)
    layers = SpikingSequential(SpikingConv2d(1, 4, (3, 1), padding=(1, 0), weight_scale=3), SpikingLinear(4 * 30, 5))
    x = spike_trains((1, 5, 6))
    graph = to_nir(layers, (1, 5, 6))
    nir.write(tmp_path / "network.nir", graph)
    for returned in (from_nir(graph), from_nir(nir.read(tmp_path / "network.nir", type_check=False))):
        assert torch.equal(returned(x), layers(x))


def test_reset_by_subtraction_is_kept_and_warned_of():
    torch.manual_seed(0)
    params = LIFParameters(reset="subtract")
    layers = SpikingSequential(SpikingLinear(30, 20, params, weight_scale=3), SpikingLinear(20, 5, params))
    with pytest.warns(UserWarning, match="NIR has no reset by subtraction") as caught:
        graph = to_nir(layers, (30,))
    assert [warning.filename for warning in caught] == [__file__]
    x = spike_trains((30,))
    ours = spikes_of(layers.double(), x.double())
    theirs = EulerRun(graph, x, 1e-3, subtract=True)
    assert_fires(ours)
    for got, want in zip(theirs.spikes.values(), ours, strict=True):
        np.testing.assert_array_equal(got, want.numpy())
    assert from_nir(graph)[0].params == params


@settings(max_examples=50, deadline=None)
@given(
    tau_mem=st.floats(1, 1e4),
    tau_syn=st.floats(1, 1e4),
    threshold=st.floats(1e-3, 1e3),
    dt=st.floats(1e-6, 1),
)
def test_constants_come_back(tau_mem, tau_syn, threshold, dt):
    """Exact with metadata; without, to single precision, which is enough to recognise integers."""
    params = LIFParameters(tau_mem=tau_mem, tau_syn=tau_syn, threshold=threshold)
    node = neuron_node(LIF(params), (2,), dt)
    kept = read_neurons(node, (2,), dt)
    assert kept.params == params
    assert kept.gain == 1
    node.metadata = {}
    read = read_neurons(node, (2,), dt)
    for name in ("tau_mem", "tau_syn", "threshold"):
        assert getattr(read.params, name) == pytest.approx(getattr(params, name), rel=3e-7)
    assert read.gain == 1


# Graphs from other programs. Weights are multiples of 1/64, so that small integer factors are exact.


def dyadic(*shape, seed, size=64):
    return np.random.default_rng(seed).integers(-size // 2, size, shape).astype(np.float32) / 64


def cuba(shape, tau_mem, tau_syn, threshold=1.0, **fields):
    """Constants in single precision, as programs write them that store constants in tensors."""
    values = {"tau_mem": tau_mem, "tau_syn": tau_syn, "r": 1, "w_in": 1, "v_leak": 0, "v_threshold": threshold}
    values |= fields
    return nir.CubaLIF(**{name: np.full(shape, value, np.float32) for name, value in values.items()})


def single_gain():
    """As written by snnTorch and Lava: input and current are added without factors, in steps of 0.1 ms."""
    dt = 1e-4
    graph = nir.NIRGraph.from_list(
        nir.Input({"input": np.array([2, 9, 9])}),
        nir.Conv2d((9, 9), dyadic(4, 2, 3, 3, seed=0), (2, 2), (1, 1), (1, 1), 1, np.zeros(4, np.float32)),
        cuba((4, 5, 5), 8 * dt, 4 * dt, 3.5, r=8, w_in=4),
        nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        nir.Flatten({"input": np.array([4, 2, 2])}, 0, -1),
        nir.Affine(dyadic(12, 16, seed=1), dyadic(12, seed=2)),
        cuba((12,), 20 * dt, dt, 2.5, r=20, w_in=1),
    )
    return graph, (2, 9, 9), dt


def unit_resistance():
    """R and w_in of 1: inputs are currents with the factor dt / tau in the membrane."""
    graph = nir.NIRGraph.from_list(
        nir.Input({"input": np.array([30])}),
        nir.Linear(dyadic(20, 30, seed=3)),
        cuba((20,), 0.004, 0.002),
        nir.Affine(dyadic(10, 20, seed=4) * 2, dyadic(10, seed=5)),
        nir.LIF(
            tau=np.full(10, 0.002), r=np.full(10, 1.5), v_leak=np.zeros(10), v_threshold=np.full(10, 0.7)
        ),
    )  # fmt: skip
    return graph, (30,), 1e-3


def no_weights():
    """Without weights, the gain goes into the threshold."""
    graph = nir.NIRGraph.from_list(
        nir.Input({"input": np.array([1, 6, 6])}),
        nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        cuba((1, 3, 3), 0.005, 0.003, 1.13, r=2.0, w_in=1.5),
    )
    return graph, (1, 6, 6), 1e-3


@pytest.mark.parametrize("foreign", [single_gain, unit_resistance, no_weights])
def test_a_graph_from_elsewhere(foreign, tmp_path):
    graph, shape, dt = foreign()
    network = from_nir(by_file(graph, tmp_path), dt)
    x = spike_trains(shape, seed=1)
    ours, theirs = spikes_of(network, x), EulerRun(graph, x, dt)
    assert_fires(ours)
    assert theirs.margin > MARGIN
    for got, want in zip(ours, theirs.spikes.values(), strict=True):
        np.testing.assert_array_equal(got.numpy(), want)


def test_what_nir_does_not_say_is_the_default():
    graph, _, dt = single_gain()
    network = from_nir(graph, dt)
    assert network[0].params == LIFParameters(tau_mem=8, tau_syn=4, threshold=3.5)
    assert network[0].bias is None
    assert network[1].kind == "average"
    assert network[2].params == LIFParameters(tau_mem=20, tau_syn=1, threshold=2.5)
    assert network[2].bias is not None
    assert network[2].rule.name == "tssl"
    np.testing.assert_array_equal(network[0].weight.detach(), 4 * graph.nodes["conv2d"].weight)
    graph, *_ = no_weights()
    assert from_nir(graph)[0].scale == 1, "NIR's sum has no factor"
    graph, *_ = unit_resistance()
    assert from_nir(graph)[1].params == LIFParameters(tau_mem=2, tau_syn=1, threshold=0.7)


def test_weights_put_before_neurons_without_synapse():
    """The metadata may contain any time constant for the absent synapse."""
    layer = LIF(LIFParameters(tau_mem=3, tau_syn=7, threshold=2.01), synapse=False)
    nodes = [nir.Input({"input": np.array([30])}), nir.Linear(dyadic(10, 30, seed=6)), neuron_node(layer, (10,), 1e-3)]
    graph = nir.NIRGraph.from_list(*nodes)
    network = from_nir(graph)
    assert network[0].params == LIFParameters(tau_mem=3, tau_syn=1, threshold=2.01)
    x = spike_trains((30,))
    theirs = EulerRun(graph, x, 1e-3)
    assert theirs.margin > MARGIN
    assert_fires([theirs.output])
    np.testing.assert_array_equal(network(x).detach().numpy(), theirs.output)


def test_axes_of_flatten_may_be_counted_in_any_way():
    """Programs count the axes of Flatten with or without the batch axis, or from the end."""
    for start in (0, 1, -3):
        flatten = nir.Flatten({"input": np.array([1, 2, 3])}, start, -1)
        nodes = [nir.Input({"input": np.array([1, 2, 3])}), flatten, nir.Linear(dyadic(4, 6, seed=0)), cuba((4,), 1, 1)]
        (layer,) = from_nir(nir.NIRGraph.from_list(*nodes, type_check=False))
        assert (layer.in_features, layer.out_features) == (6, 4)


def test_the_time_step():
    torch.manual_seed(0)
    layers = SpikingSequential(SpikingLinear(4, 3))
    graph = to_nir(layers, (4,), dt=2e-3)
    np.testing.assert_allclose(graph.nodes["cubalif"].tau_mem, 0.01)
    assert from_nir(graph)[0].params == LIFParameters(), "the step of the export"
    for node in graph.nodes.values():
        node.metadata = {}
    assert from_nir(graph, dt=1e-3)[0].params.tau_mem == 10
    assert from_nir(graph, dt=2e-3)[0].params.tau_mem == 5


def test_padding_by_name():
    for padding, expected in (("same", (1, 2)), ("valid", (0, 0))):
        node = nir.Conv2d((7, 7), dyadic(2, 1, 3, 5, seed=0), 1, padding, 1, 1, np.zeros(2))
        size = (2, 7, 7) if padding == "same" else (2, 5, 3)
        nodes = [nir.Input({"input": np.array([1, 7, 7])}), node, cuba(size, 0.004, 0.002)]
        assert from_nir(nir.NIRGraph.from_list(*nodes, type_check=False))[0].padding == expected


# Learnt constants


def learning_network(per):
    torch.manual_seed(4)
    options = {"learn": ("tau_mem", "tau_syn", "threshold"), "per": per, "weight_scale": 3.0}
    layers = SpikingSequential(SpikingConv2d(1, 3, 3, **options), SpikingLinear(12, 5, **options)).double()
    with torch.no_grad():
        for layer in layers:
            for raw in layer.constants.parameters():
                raw += 0.5 * torch.randn_like(raw)
    return layers


@pytest.mark.parametrize("per", ["layer", "neuron"])
def test_learnt_constants_are_written_as_they_are_now(per):
    layers, x = learning_network(per), spike_trains((1, 4, 4))
    ours = spikes_of(layers, x.double())
    theirs = EulerRun(to_nir(layers, (1, 4, 4)), x, 1e-3)
    assert_fires(ours)
    assert theirs.margin > 1e-9, "no spike hangs on rounding"
    for got, want in zip(theirs.spikes.values(), ours, strict=True):
        np.testing.assert_array_equal(got, want.numpy())


def test_constants_that_a_layer_shares_are_read_as_fixed():
    layers = learning_network("layer")
    back = from_nir(to_nir(layers, (1, 4, 4)))
    for layer, read in zip(layers, back, strict=True):
        assert read.constants is None
        for name, value in layer.constants()._asdict().items():
            assert getattr(read.params, name) == value.item()
    with pytest.raises(InterchangeError, match="differs between neurons"):
        from_nir(to_nir(learning_network("neuron"), (1, 4, 4)))


# Errors


@pytest.mark.parametrize(
    ("layers", "shape", "message"),
    [
        ([SpikingRecurrent(4, 2)], (4,), r"layer '0' \(SpikingRecurrent\): recurrent layers cannot be exported"),
        ([SpikePool2d(2, "max")], (1, 4, 4), r"layer '0' \(SpikePool2d\): NIR has no maximum pooling"),
        ([SpikePool2d(2)], (1, 4, 4), "the network ends in a sum pooling with scale 1.1; NIR has no scale"),
        ([SpikePool2d(2, scale=0), LIF()], (1, 4, 4), r"layer '0' .* a scale of 0 cannot be"),
        ([SpikePool2d(2), LIF()], (4,), r"layer '0' .* its input must be images \(C, H, W\), got shape \(4,\)"),
        ([SpikePool2d(5), LIF()], (1, 4, 4), r"layer '0' .* a window of \(5, 5\) is larger than its input of \(4, 4\)"),
        ([SpikingLinear(5, 2)], (4,), r"layer '0' \(SpikingLinear\): it has 5 input features, got 4"),
        ([SpikingConv2d(2, 3, 3)], (1, 4, 4), r"layer '0' .* it has 2 input channels, got 1"),
        ([LIF(LIFParameters(tau_mem=math.inf))], (4,), r"layer '0' \(LIF\): neurons without leak"),
        ([LIF(), nn.Linear(4, 4)], (4,), r"layer '1' \(Linear\): only layers of this package"),
        ([SpikingSequential(LIF(), nn.ReLU())], (4,), r"layer '0.1' \(ReLU\)"),
    ],
)
def test_networks_that_nir_cannot_express(layers, shape, message):
    with pytest.raises(InterchangeError, match=message):
        to_nir(SpikingSequential(*layers), shape)


def test_arguments():
    layers = SpikingSequential(LIF())
    with pytest.raises(TypeError, match="network must be a SpikingSequential, got Sequential"):
        to_nir(nn.Sequential(LIF()), (4,))
    with pytest.raises(TypeError, match="in_shape must be"):
        to_nir(layers, 4)
    with pytest.raises(ValueError, match="dt must be a time in seconds > 0, got 0"):
        to_nir(layers, (4,), dt=0)
    with pytest.raises(TypeError, match=r"graph must be a nir\.NIRGraph, .* got str"):
        from_nir("network.nir")
    with pytest.raises(ValueError, match="dt must be a time in seconds > 0, got -1"):
        from_nir(to_nir(layers, (4,)), dt=-1)


def image(*nodes):
    return nir.NIRGraph.from_list(nir.Input({"input": np.array([2, 6, 6])}), *nodes, type_check=False)


def flat(*nodes):
    return nir.NIRGraph.from_list(nir.Input({"input": np.array([4])}), *nodes, type_check=False)


def conv(stride=1, padding=0, dilation=1, groups=1, channels=2, bias=2):
    weight = np.ones((2, channels, 3, 3), np.float32)
    return nir.Conv2d(None, weight, stride, padding, dilation, groups, np.full(bias, 0.5))


def pool(kind=nir.SumPool2d, size=(2, 2), stride=(2, 2), padding=(0, 0), **metadata):
    return kind(np.array(size), np.array(stride), np.array(padding), metadata={"tssl_triton": metadata})


def different(name):
    node = cuba((4,), 0.004, 0.002)
    getattr(node, name)[1] += 0.001
    return node


def with_metadata(**changes):
    node = neuron_node(LIF(), (4,), 1e-3)
    for name, value in changes.items():
        node.metadata["tssl_triton"][name] = value
    return node


ONES = np.ones((4, 4), np.float32)
LIF4 = cuba((4,), 0.004, 0.002)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (flat(cuba((4,), 0.004, 0.002, v_leak=0.1)), r"node 'cubalif' \(CubaLIF\): v_leak is 0.1, but neurons"),
        (flat(cuba((4,), 0.004, 0.002, v_reset=-0.5)), r"node 'cubalif' .* v_reset is -0.5"),
        (flat(different("tau_mem")), r"node 'cubalif' .* tau_mem differs between neurons, 0.004 to 0.005"),
        (flat(different("tau_syn")), r"node 'cubalif' .* tau_syn differs between neurons"),
        (flat(different("r")), r"node 'cubalif' .* r differs between neurons"),
        (flat(different("w_in")), r"node 'cubalif' .* w_in differs between neurons"),
        (flat(different("v_threshold")), r"node 'cubalif' .* v_threshold differs between neurons"),
        (flat(cuba((5,), 0.004, 0.002)), r"node 'cubalif' .* tau_mem has shape \(5,\), but its input has shape \(4,\)"),
        (flat(cuba((4,), 0.0004, 0.002)), r"node 'cubalif' .* tau_mem is 0.0004 s, 0.4 time steps of 0.001 s"),
        (flat(cuba((4,), np.inf, 0.002)), r"node 'cubalif' .* tau_mem is inf s"),
        (flat(cuba((4,), 0.004, 0.002, -1.0)), r"node 'cubalif' .* threshold must be a finite number > 0"),
        (flat(cuba((4,), 0.004, 0.002, r=-1)), r"node 'cubalif' .* multiply its input by -0.25; without weights"),
        (
            flat(nir.IF(np.ones(4), np.ones(4))),
            r"node 'if' \(IF\): this node cannot be represented; supported nodes: C",
        ),
        (flat(nir.Scale(np.ones(4))), r"node 'scale' \(Scale\): this node cannot"),
        (
            flat(nir.Linear(ONES), LIF4, nir.Linear(ONES)),
            r"node 'linear_1' \(Linear\): weights must be followed by CubaLIF",
        ),
        (
            flat(nir.Linear(ONES), nir.Linear(ONES), LIF4),
            r"node 'linear' \(Linear\): weights must be followed by CubaLIF",
        ),
        (flat(nir.Linear(np.ones((4, 5))), LIF4), r"node 'linear' .* it has 5 input features, got 4"),
        (flat(nir.Linear(np.ones((1, 4, 4))), LIF4), r"node 'linear' .* weight must have two axes"),
        (flat(nir.Affine(ONES, np.ones(3)), LIF4), r"node 'affine' .* bias has shape \(3,\), but its weights have 4"),
        (
            flat(nir.Flatten({"input": np.array([4])}, 0), LIF4),
            r"node 'flatten' .* Flatten must be followed by Linear or Affine",
        ),
        (image(nir.Linear(np.ones((4, 72))), LIF4), r"node 'linear' .* it needs a Flatten before it"),
        (image(conv(dilation=2), LIF4), r"node 'conv2d' .* groups and dilation must be 1"),
        (image(conv(groups=2, channels=1), LIF4), r"node 'conv2d' .* groups and dilation must be 1"),
        (image(conv(channels=3), LIF4), r"node 'conv2d' .* it has 3 input channels, got 2"),
        (image(conv(stride=2, padding="same"), LIF4), r"node 'conv2d' .* padding 'same' needs an odd kernel"),
        (image(conv(bias=3), LIF4), r"node 'conv2d' .* bias has shape \(3,\)"),
        (flat(conv(), LIF4), r"node 'conv2d' .* its input must be images \(C, H, W\), got shape \(4,\)"),
        (image(pool(stride=(1, 1)), LIF4), r"node 'sumpool2d' .* pooling windows must not overlap"),
        (image(pool(nir.AvgPool2d, padding=(1, 1)), LIF4), r"node 'avgpool2d' .* pooling windows must not overlap"),
        (image(pool(size=(7, 7), stride=(7, 7))), r"node 'sumpool2d' .* a window of \(7, 7\) is larger"),
        (image(pool(size=(2, 2, 2))), r"node 'sumpool2d' .* kernel_size must be one integer or two"),
        (image(pool(scale=0.0)), r"node 'sumpool2d' .* a scale of 0"),
        (image(pool(scale=1.1)), r"node 'output' .* but no weights follow"),
        (
            flat(with_metadata(params={"tau_mem": 9.0})),
            r"node 'cubalif' .* its metadata have tau_mem = 9, its fields 5",
        ),
        (flat(with_metadata(params={"charm": 9.0})), r"node 'cubalif' .* unexpected keyword argument 'charm'"),
        (
            flat(with_metadata(rule={"name": "bptt"})),
            r"node 'cubalif' .* the unknown learning rule 'bptt'; known rules",
        ),
        (flat(with_metadata(rule={"name": "stbp", "width": 0.0})), r"node 'cubalif' .* width must be"),
    ],
)
def test_graphs_that_cannot_be_represented(graph, message):
    with pytest.raises(InterchangeError, match=message):
        from_nir(graph)


def test_an_input_without_a_shape():
    graph = flat(LIF4)
    graph.nodes["input"].input_type = {"input": None}
    with pytest.raises(InterchangeError, match=r"node 'input' \(Input\): it must have the shape of one input"):
        from_nir(graph)


def wired(*edges, more=()):
    """Graphs that are not a chain."""
    nodes = {"in": nir.Input({"input": np.array([4])}), "out": nir.Output({"output": np.array([4])})}
    nodes |= {name: nir.Linear(ONES) for name in ("fc", "fc2")} | dict.fromkeys(("lif", "lif2"), LIF4) | dict(more)
    return nir.NIRGraph(nodes, list(edges), type_check=False)


CHAIN = (("in", "fc"), ("fc", "lif"), ("lif", "fc2"), ("fc2", "lif2"), ("lif2", "out"))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (wired(*CHAIN, ("lif", "out")), "node 'lif' has several outputs, 'fc2' and 'out': branches and recurrence"),
        (wired(*CHAIN, ("in", "lif2")), "node 'in' has several outputs, 'fc' and 'lif2'"),
        (wired(*CHAIN[:2], ("lif", "out"), ("fc2", "lif")), "node 'lif' has several inputs, 'fc' and 'fc2'"),
        (wired(*CHAIN[:2], ("lif", "fc")), "node 'fc' has several inputs, 'in' and 'lif'"),
        (wired(*CHAIN[:4], ("lif2", "in")), "node 'lif2' does not lead to the output 'out'"),
        (wired(*CHAIN[:4]), "node 'lif2' does not lead to the output 'out'"),
        (wired(*CHAIN[:2], ("lif", "out"), ("fc2", "lif2"), ("lif2", "fc2")), "node 'fc2' is not on the path"),
        (wired(*CHAIN, ("lif2", "more")), "an edge from 'lif2' to 'more', but no node 'more'"),
        (wired(*CHAIN, more={"in2": nir.Input({"input": np.array([4])})}), "must have one Input node, got 2"),
        (wired(("in", "sub"), ("sub", "out"), more={"sub": flat(LIF4)}), "node 'fc' is not on the path"),
    ],
)
def test_graphs_that_are_no_chain(graph, message):
    with pytest.raises(InterchangeError, match=message):
        from_nir(graph)


def test_a_graph_within_a_graph():
    nodes = {"in": nir.Input({"input": np.array([4])}), "sub": flat(LIF4), "out": nir.Output({"output": np.array([4])})}
    with pytest.raises(InterchangeError, match=r"node 'sub' \(NIRGraph\): this node cannot be represented"):
        from_nir(nir.NIRGraph(nodes, [("in", "sub"), ("sub", "out")], type_check=False))


def test_without_nir(monkeypatch):
    graph = to_nir(SpikingSequential(LIF()), (4,))
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(MissingExtraError, match=r"needs nir, which is not installed: pip install 'tssl-triton\[inter"):
        to_nir(SpikingSequential(LIF()), (4,))
    with pytest.raises(MissingExtraError, match="reading a NIR graph needs nir"):
        from_nir(graph)
