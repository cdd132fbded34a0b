"""Launches per training step of the paper's networks."""

import sys

import benches  # noqa: F401 - finds bench
import pytest
import torch

from bench import __main__
from bench.launches import count, table
from bench.steps import layer_shapes
from bench.tracing import DEVICE, KINDS, record
from tssl_triton import SpikingLinear, SpikingSequential, psc
from tssl_triton.experiments import EXPERIMENTS
from tssl_triton.network import parse_architecture

#: Spiking layers, the output layer included.
LAYERS = {
    "mnist": 4,
    "n-mnist": 3,
    "fashion-mnist": 3,
    "fashion-mnist-cnn": 4,
    "cifar10-cnn1": 8,
    "cifar10-cnn2": 8,
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
    # Output, its target and the gradient, where the loss is on postsynaptic currents.
    assert row.launches["psc"] == (0 if EXPERIMENTS[name].pattern is None else 3)
    assert row.total == sum(row.launches[kind] for kind in KINDS)


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
    assert capsys.readouterr().out.splitlines()[-1].split()[:4] == ["cifar10-cnn2", "8", "8", "8"]
