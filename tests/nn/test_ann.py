"""The network without spikes: the layers of the spiking one, and the same harness around it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from trainings import without_timing

from tssl_triton import SpikingConv2d, SpikingLinear, data
from tssl_triton.data.events import EventSet
from tssl_triton.encoding import static
from tssl_triton.nn import ANN, build_ann, build_network
from tssl_triton.studies import convert as conversion_report
from tssl_triton.training import Trainer, resolve

SMALL = {
    "rule": "ann",
    "arch": "6C3-P2-20",
    "padding": "1",
    "dropout": 0.2,
    "batch_size": 50,
    "lr": 5e-3,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def built(build, **options):
    torch.manual_seed(3)
    return build("4C3-P2-6", (1, 8, 8), 5, padding=1, weight_scale=0.7, conv_weight_scale=1.5, **options)


def test_it_begins_where_the_spiking_network_begins():
    spiking = [layer for layer in built(build_network) if isinstance(layer, (SpikingConv2d, SpikingLinear))]
    weighted = [layer for layer in built(build_ann) if isinstance(layer, (nn.Conv2d, nn.Linear))]
    assert len(spiking) == len(weighted) == 3
    for one, other in zip(spiking, weighted, strict=True):
        assert torch.equal(one.weight, other.weight)
        assert other.bias is None


@pytest.mark.parametrize("pool", ["sum", "average", "max"])
def test_layers_are_rectified_and_the_last_is_linear(pool):
    network = built(build_ann, pool=pool)
    first, second, last = (layer.weight for layer in network if isinstance(layer, (nn.Conv2d, nn.Linear)))
    x = torch.randn(7, 1, 8, 8)
    hidden = F.conv2d(x, first, padding=1).relu().unfold(2, 2, 2).unfold(3, 2, 2)  # (B, C, H, W, 2, 2)
    pooled = {"sum": 1.1 * hidden.sum((4, 5)), "average": hidden.mean((4, 5)), "max": hidden.amax((4, 5))}[pool]
    expected = F.linear(F.linear(pooled.flatten(1), second).relu(), last)
    torch.testing.assert_close(network(x), expected)
    assert network(x).shape == (7, 5)
    assert (network(x) < 0).any()


def test_dropout_stands_where_it_does_between_spiking_layers():
    network = built(build_ann, dropout=0.25)
    kinds = [type(layer).__name__ for layer in network]
    assert kinds == ["Conv2d", "ReLU", "Pool2d", "Dropout", "Flatten", "Linear", "ReLU", "Dropout", "Flatten", "Linear"]
    assert [layer.p for layer in network if isinstance(layer, nn.Dropout)] == [0.25, 0.25]


def test_time_is_averaged_away():
    network = built(build_ann)
    x = torch.randn(6, 2, 1, 8, 8)
    assert torch.equal(network(static(x[0], 9)), network(x[0]))
    torch.testing.assert_close(network(x), network(x.mean(0)))
    flat = build_ann("6", (4,), 2)
    assert flat(torch.randn(3, 4)).shape == (3, 2)
    assert flat(torch.randn(5, 3, 4)).shape == (3, 2)


@pytest.mark.parametrize("shape", [(3, 1, 8, 9), (2, 3, 2, 8, 8), (8, 8)])
def test_another_shape_is_an_error(shape):
    with pytest.raises(ValueError, match=r"x must be images \(B, \*\(1, 8, 8\)\) or a sequence .*, got shape"):
        built(build_ann)(torch.zeros(shape))


def test_errors_are_those_of_build_network():
    with pytest.raises(ValueError, match="token 'Q2' is not"):
        build_ann("6-Q2", (4,), 2)
    with pytest.raises(ValueError, match="pool must be one of"):
        build_ann("6", (4,), 2, pool="median")


def trained(settings, digits):
    trainer = Trainer(resolve({**SMALL, "epochs": 3, **settings}, {}), digits)
    while trainer.epoch < trainer.config.epochs:
        assert trainer.train_epoch()
    return trainer


@pytest.fixture(scope="module")
def uninterrupted(digits):
    return trained({}, digits)


def test_it_learns_in_the_same_harness(uninterrupted, digits):
    assert isinstance(uninterrupted.network, ANN)
    last = uninterrupted.history[-1]
    assert last["loss"] < 0.5 * uninterrupted.history[0]["loss"]
    assert last["test_accuracy"] > 0.7
    assert last["firing_rates"] == []
    x, labels = digits.test_batch(0, 360)
    logits = uninterrupted.network.eval()(x)
    assert uninterrupted.test().correct == int((logits.argmax(1) == labels).sum())
    expected = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(uninterrupted.loss(logits, labels), expected)


def test_settings_of_neurons_and_time_change_nothing(uninterrupted, digits):
    other = trained({"steps": 9, "loss": "count", "tau_mem": 2.0, "epochs": 3}, digits)
    assert without_timing(other.history) == without_timing(uninterrupted.history)


def test_it_is_taken_up_again_bit_for_bit(uninterrupted, digits, tmp_path):
    asked = iter([False] * 7)
    stopped = Trainer(uninterrupted.config, digits)
    assert stopped.train_epoch()
    assert not stopped.train_epoch(lambda: next(asked, True))
    assert stopped.batch == 7
    state = stopped.state()
    resumed = Trainer(uninterrupted.config, digits)
    resumed.load_state(state, tmp_path)
    while resumed.epoch < 3:
        assert resumed.train_epoch()
    assert without_timing(resumed.history) == without_timing(uninterrupted.history)
    for one, other in zip(resumed.network.parameters(), uninterrupted.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_recordings_are_seen_as_counts(monkeypatch):
    monkeypatch.setenv("TSSL_CPU", "eager")
    spikes = np.random.default_rng(0).integers(0, 2, (12, 6, 2 * 4 * 4), dtype=np.uint8)  # (N, T, C H W)
    bits, labels = np.packbits(spikes, axis=-1), torch.arange(12) % 3
    recordings = EventSet("drawn", bits, labels, bits[:5], labels[:5], 3, (2, 4, 4))
    trainer = Trainer(resolve({"rule": "ann", "arch": "7", "steps": 6, "device": "cpu", "epochs": 1}, {}), recordings)
    assert trainer.train_epoch()
    x, _ = recordings.test_batch(0, 5)
    counts = torch.from_numpy(spikes[:5].sum(1, dtype=np.float32)).view(5, 2, 4, 4)
    torch.testing.assert_close(trainer.network(x), trainer.network(counts / 6))
    assert conversion_report.measure(trainer, (2, 8), percentile=100).samples == 12
