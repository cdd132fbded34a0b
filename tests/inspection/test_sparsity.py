"""Firing sparsity: counts of hand-made spike trains, and of a network against its own spikes."""

import json

import pytest
import torch
from small_runs import SMALL, started_run

from tssl_triton import cli, data
from tssl_triton.inspection import SpikeCounter, sparsity
from tssl_triton.inspection.sparsity import summed
from tssl_triton.nn import LIF
from tssl_triton.training import ConfigError, Trainer, resolve

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def _eager(eager):
    """Eager PyTorch: compiling takes longer than this training, and the results are the same."""


def counter(*batches, steps=3):
    made = SpikeCounter(steps)
    for spikes in batches:
        made.add(None, None, spikes)
    return made


def hand_made():
    """Three steps, two samples, four neurons, in two batches; neuron by neuron: 3 and 2, 0 and 0, 1 and 3, 0 and 1."""
    first = torch.tensor([[1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0]])
    second = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 0], [1, 0, 1, 1]])
    return [spikes.float()[:, None] for spikes in (first, second)]


def test_counts_of_a_hand_made_spike_train():
    made = counter(*hand_made())
    assert made.fired.tolist() == [3, 2, 1, 2]
    assert made.spikes.tolist() == [5, 0, 4, 1]
    assert made.samples == 2
    layer = summed("x", [made])
    assert layer.neurons == 4
    assert layer.shares == (3 / 8, 2 / 8, 1 / 8, 2 / 8)
    assert layer.silent == 3 / 8
    assert layer.rate == pytest.approx(10 / 24)
    assert layer.spikes_per_sample == pytest.approx(5)
    # Rates 5/6, 0, 4/6 and 1/6, in bins of 1/20.
    assert [k for k, share in enumerate(layer.rates) if share] == [0, 3, 13, 16]
    assert sum(layer.rates) == 1


def test_batches_and_axes_make_no_difference():
    spikes = torch.cat(hand_made(), 1)
    whole, image = counter(spikes), counter(spikes.reshape(3, 2, 1, 2, 2).to(memory_format=torch.channels_last_3d))
    for made in (whole, image):
        assert summed("x", [made]) == summed("x", [counter(*hand_made())])


def test_a_neuron_that_always_fires_is_in_the_last_bin():
    layer = summed("x", [counter(torch.ones(3, 5, 2))])
    assert layer.rates[-1] == 1
    assert layer.shares == (0, 0, 0, 1)


def test_every_neuron_weighs_the_same():
    together = summed("x", [counter(torch.ones(3, 2, 1)), counter(torch.zeros(3, 2, 3))])
    assert together.neurons == 4
    assert (together.silent, together.rate) == (0.75, 0.25)


def test_other_lengths_and_nothing_counted():
    with pytest.raises(ValueError, match=r"spikes must be \(T, B, \*\) with T = 3, got shape \(4, 1, 2\)"):
        counter(torch.zeros(4, 1, 2))
    with pytest.raises(ValueError, match="counters of x must have counted"):
        summed("x", [SpikeCounter(3)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return started_run(tmp_path_factory.mktemp("sparsity") / "run")


def test_a_network_s_own_spikes(run):
    measured = sparsity.measure(run.trainer)
    assert [layer.name for layer in measured.layers] == ["conv 1", "full 1", "output"]
    assert [layer.neurons for layer in measured.layers] == [6 * 64, 20, 10]
    assert not any(module._forward_hooks for module in run.trainer.network.modules())
    images = run.trainer.images
    values, labels = images.test_batch(0, 360)
    x = images.present(values, 5)
    layers = iter(measured.layers)
    for module in run.trainer.network:
        x = module(x)
        if isinstance(module, LIF):
            layer, counts = next(layers), x.detach().sum(0)
            assert layer.shares == pytest.approx([(counts == k).float().mean().item() for k in range(6)])
            assert layer.rate == pytest.approx(x.mean().item())
    assert measured.samples == len(labels) == 360
    assert measured.overall.neurons == 6 * 64 + 30
    assert 0 < measured.overall.rate < 1


def test_the_table(run):
    rows = sparsity.measure(run.trainer).table()
    assert rows[0] == ["layer", "neurons", "spikes/sample", "rate", *(f"fire {k}" for k in range(6))]
    assert [row[0] for row in rows[1:]] == ["conv 1", "full 1", "output", "overall"]
    for row in rows[1:]:
        assert sum(float(cell.rstrip("%")) for cell in row[4:]) == pytest.approx(100, abs=0.4)


def test_long_runs_have_wide_columns(run):
    layer = summed("x", [counter(torch.ones(30, 2, 3), steps=30)])
    measured = sparsity.Sparsity("d", "3", 30, 2, 1, 0.5, (layer,), layer)
    heading, row, _ = measured.table()
    assert heading[4:] == [f"fire {k}" for k in ("0", "1", "2", "3", "4", "5", "6-10", "11-20", "21-30")]
    assert row[4:] == ["0.0%"] * 8 + ["100.0%"]


def test_the_command(run, tmp_path, capsys):
    before = sorted(path.name for path in run.folder.iterdir())
    assert cli.main(["sparsity", str(run.folder), "--out", str(tmp_path / "new")]) == 0
    assert sorted(path.name for path in run.folder.iterdir()) == before
    out = capsys.readouterr().out
    assert "| conv 1 " in out
    assert "| overall | 414 " in out
    assert (tmp_path / "new" / "sparsity.png").read_bytes().startswith(PNG)
    content = json.loads((tmp_path / "new" / "sparsity.json").read_text())
    measured = sparsity.measure(run.trainer)
    assert content == json.loads(json.dumps(measured.as_dict()))
    assert content["overall"]["share_firing_k_times"] == list(measured.overall.shares)
    assert len(content["rate_bins"]) == len(content["overall"]["share_by_rate"]) + 1


def test_without_spiking_neurons():
    trainer = Trainer(resolve(SMALL, {}), data.load("digits"))
    trainer.network = torch.nn.Sequential(torch.nn.Flatten())
    with pytest.raises(ConfigError, match="has no spiking neurons"):
        sparsity.measure(trainer)
