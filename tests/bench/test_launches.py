"""Launches per training step of the paper's networks."""

import sys

import benches  # noqa: F401 - finds bench
import pytest
import torch

from bench import __main__
from bench.common.steps import layer_shapes
from bench.common.tracing import DEVICE, KINDS, pretending, record
from bench.launches import count, table
from tssl_triton import PackedSpikes, SpikingConv2d, SpikingLinear, SpikingRecurrent, SpikingSequential, lif, psc
from tssl_triton.nn.network import parse_architecture
from tssl_triton.training.presets import EXPERIMENTS

#: Spiking layers, the output layer included.
LAYERS = {
    "mnist": 4,
    "n-mnist": 3,
    "fashion-mnist": 3,
    "fashion-mnist-cnn": 4,
    "cifar10-cnn1": 8,
    "cifar10-cnn2": 8,
}

#: Those whose input is a spike train as bits: behind another layer, with no pooling between.
BEHIND_LAYERS = {
    "mnist": 1,
    "n-mnist": 0,
    "fashion-mnist": 2,
    "fashion-mnist-cnn": 1,
    "cifar10-cnn1": 5,
    "cifar10-cnn2": 5,
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_one_launch_each_way_per_layer(name):
    row = count(name)
    layers = LAYERS[name]
    assert row.layers == layers
    assert row.launches["lif forward"] == layers
    assert row.launches["lif backward"] == layers
    # Forward; backward for the weights of every layer, and for the input of all but the first.
    assert row.launches["product"] == 3 * layers - 1
    # The input of every layer but the first is unpacked for the gradient of its weights; nothing is ever packed anew.
    assert row.launches["pack, unpack"] <= layers - 1
    # Forward, backward, and once more from the bits where a pooled spike train is a layer's input.
    pools = sum(token.kind == "pool" for token in parse_architecture(EXPERIMENTS[name].architecture))
    assert row.launches["pooling"] == 3 * pools
    # What the output lacks of its target, and the gradient, where the loss is on postsynaptic currents.
    assert row.launches["psc"] == (0 if EXPERIMENTS[name].pattern is None else 2)
    assert row.total == sum(row.launches[kind] for kind in KINDS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_networks_of_fused_layers(name):
    row, composed = count(name, fused="always"), count(name)
    layers, fused = LAYERS[name], BEHIND_LAYERS[name]
    assert row.launches["fused forward"] == row.launches["weight gradient"] == fused
    assert row.launches["lif forward"] == layers - fused
    assert row.launches["lif backward"] == layers
    # A fused layer's forward and weight gradient are no products of PyTorch's; its input's gradient is.
    assert row.launches["product"] == composed.launches["product"] - 2 * fused
    # Only the composed layers unpack their input for the gradient of their weights.
    assert row.launches["pack, unpack"] == composed.launches["pack, unpack"] - fused


MAKERS = {
    "linear": (lambda **options: SpikingLinear(64, 64, **options), (64,)),
    "conv": (lambda **options: SpikingConv2d(64, 64, 3, padding=1, **options), (64, 1, 1)),
}


def launches_of_fused_layers(make, features, batch, **options):
    """Launches of two fused layers, one after the other, forward and backward; their input is bits."""
    with pretending(), DEVICE:
        net = SpikingSequential(*(make(fused="always", **options) for _ in range(2)))
        spikes = lif(torch.empty(5, batch, *features).requires_grad_())
        packed = PackedSpikes.pack(spikes)
        out = net(packed)
        wanted = (spikes, *net.parameters())
        forward = record(lambda: net(packed)).launches()
        backward = record(lambda: torch.autograd.grad(out, wanted, torch.empty_like(out))).launches()
    return forward, backward


@pytest.mark.parametrize("kind", MAKERS)
def test_a_fused_layer_is_one_launch_forward_and_three_backward(kind):
    forward, backward = launches_of_fused_layers(*MAKERS[kind], batch=2)
    each = {"fused forward": 2}
    assert {name: n for name, n in forward.items() if name != "other"} == each
    each = {"lif backward": 2, "weight gradient": 2, "product": 2}
    assert {name: n for name, n in backward.items() if name != "other"} == each


def test_a_weight_gradient_in_shares_is_summed_by_one_more_launch():
    _, whole = launches_of_fused_layers(*MAKERS["linear"], batch=2)
    _, shares = launches_of_fused_layers(*MAKERS["linear"], batch=64)
    assert shares["other"] == whole["other"] + 2
    assert {**shares, "other": 0} == {**whole, "other": 0}


def test_recomputing_runs_the_fused_kernel_again():
    forward, backward = launches_of_fused_layers(*MAKERS["linear"], batch=2, recompute=True)
    assert forward["fused forward"] == backward["fused forward"] == 2
    assert backward["lif backward"] == 2


@pytest.mark.parametrize(("dtype", "fused"), [(torch.float32, 0), (torch.bfloat16, 1)])
def test_layers_fuse_by_themselves_where_they_would_on_a_gpu(dtype, fused):
    with pretending(), DEVICE:
        layer = SpikingLinear(256, 1024).to(dtype)
        spikes = PackedSpikes.pack(lif(torch.empty(5, 512, 256, dtype=dtype).requires_grad_()))
        assert record(lambda: layer(spikes)).launches()["fused forward"] == fused


def test_shapes_of_layers():
    convolutions = [(128, 32, 32), (256, 32, 32), (512, 16, 16), (1024, 8, 8), (512, 8, 8)]
    assert layer_shapes("cifar10-cnn2") == [*convolutions, (1024,), (512,), (10,)]


def test_the_batch_does_not_matter():
    assert count("mnist", batch=1) == count("mnist", batch=3)


def test_a_copy_inside_an_operator_is_counted():
    spikes = torch.empty(4, 3, 5, device=DEVICE)
    assert record(lambda: psc(spikes, 3.0)).launches() == {"psc": 1}
    assert record(lambda: psc(spikes.transpose(0, 1), 3.0)).launches() == {"psc": 1, "other": 1}


def test_a_layer_called_twice_is_counted_twice():
    with DEVICE:
        net = SpikingSequential(SpikingLinear(6, 6), SpikingLinear(6, 6))
    x = torch.empty(5, 2, 6, device=DEVICE)
    assert record(lambda: net[1](net(x))).launches() == {"lif forward": 3, "product": 3}


def test_the_table():
    rows = [count(name) for name in ("mnist", "n-mnist")]
    head, *lines = table(rows).splitlines()
    assert head.split("  ")[0] == "network"
    assert len(lines) == 2
    assert len({len(line) for line in (head, *lines)}) == 1
    assert lines[0].split()[:4] == ["mnist", "4", "4", "4"]
    assert lines[0].split()[-1] == str(rows[0].total)


def test_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "launches", "--networks", "cifar10-cnn2"])
    __main__.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("cifar10-cnn2")]
    assert [row[:6] for row in rows] == [
        ["cifar10-cnn2", "8", "8", "8", "0", "0"],
        ["cifar10-cnn2", "8", "3", "8", "5", "5"],
    ]


@pytest.mark.parametrize(
    ("make", "forward", "backward"),
    [
        (lambda: SpikingLinear(6, 5), 0, 0),
        (lambda: SpikingLinear(6, 5, learn=("tau_mem",)), 0, 0),
        (lambda: SpikingRecurrent(6, 5), 2, 3),
        (lambda: SpikingRecurrent(6, 5, learn=("tau_mem",)), 2, 3),
    ],
)
def test_launches_for_each_step(make, forward, backward):
    """As docs/design.md has them: only feedback makes any."""
    with pretending():
        layer = make().to(DEVICE)

    def launches(steps):
        spikes = []
        walks = (
            lambda: spikes.append(layer(torch.empty(steps, 2, 6, device=DEVICE))),
            lambda: spikes[0].sum().backward(),
        )
        return [record(walk).launches().total() for walk in walks]

    assert [round((more - few) / 16) for more, few in zip(launches(32), launches(16), strict=True)] == [
        forward,
        backward,
    ]
