"""Inspection of a network: statistics and traces against its own spikes and gradients, and the command's files."""

import base64
import json
import math
import re
import struct

import pytest
import torch
from comparing import assert_close
from event_files import write_n_mnist
from small_runs import SMALL, started_run

from tssl_triton import cli, data
from tssl_triton.inspection import SpikeCounter, figures, inspect
from tssl_triton.inspection.choose import choose_neurons, find_neurons, position, read_neuron
from tssl_triton.inspection.page import page, write
from tssl_triton.nn import LIF
from tssl_triton.training import ConfigError, Trainer, load_data, resolve

PNG = b"\x89PNG\r\n\x1a\n"
SAMPLES = 250  # in batches of 100, the last one smaller


@pytest.fixture(autouse=True)
def _eager(eager):
    """Eager PyTorch: compiling takes longer than this training, and the results are the same."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return started_run(tmp_path_factory.mktemp("inspection") / "run")


@pytest.fixture(scope="module")
def found(run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSSL_CPU", "eager")
        return inspect(run.trainer, sample=3, neurons=4, samples=SAMPLES)


def layer_by_layer(trainer, start, stop):
    """Input and output of each layer with neurons, and the loss, in evaluation mode."""
    trainer.network.eval()
    values, labels = trainer.images.test_batch(start, stop)
    x, seen = trainer.images.present(values, trainer.config.steps), []
    for module in trainer.network:
        before, x = x, module(x)
        if isinstance(module, LIF):
            seen.append((before, x))
    return seen, trainer.loss(x, labels).sum()


def test_numbers_of_the_layers(run, found):
    seen, _ = layer_by_layer(run.trainer, 0, SAMPLES)
    assert list(found.layers) == ["conv 1", "full 1", "output"]
    for layer, (_, spikes) in zip(found.layers.values(), seen, strict=True):
        spikes = spikes.detach()
        assert layer.shape == tuple(spikes.shape[2:])
        assert layer.silent == int((~spikes.bool().flatten(0, 1).any(0)).sum())
        assert layer.saturated == int(spikes.bool().flatten(0, 1).all(0).sum())
        rates = spikes.double().mean((0, 1)).flatten()
        assert layer.firing.rate == pytest.approx(float(rates.mean()))
        assert layer.percentiles[1] == pytest.approx(float(rates.quantile(0.5)))
    assert found.layers["conv 1"].silent


def test_a_saturated_neuron_is_counted():
    trainer = Trainer(resolve({**SMALL, "arch": "10"}, {}), data.load("digits"))
    with torch.no_grad():
        trainer.network[0].weight.zero_()
        # Images are normalised: the lowest value is that of an empty corner pixel, the same in every image.
        trainer.network[0].weight[2, 0] = -1e3
    numbers = inspect(trainer, samples=50).layers["full 1"]
    assert (numbers.saturated, numbers.silent, numbers.firing.rate) == (1, 9, 0.1)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_norms_are_those_of_one_batch_s_gradient(run, reduction):
    trainer = Trainer(resolve({**SMALL, "reduction": reduction}, {}), run.trainer.images)
    trainer.network.load_state_dict(run.trainer.network.state_dict())
    _, loss = layer_by_layer(trainer, 0, SAMPLES)
    (loss if reduction == "sum" else loss / SAMPLES).backward()
    layers = inspect(trainer, samples=SAMPLES).layers
    for layer, weight in zip(layers.values(), trainer.network.parameters(), strict=True):
        (norms,) = layer.norms
        assert norms.parameter == "weight"
        # Sums of 250 samples in float32, in another order.
        assert norms.gradient == pytest.approx(float(weight.grad.norm()), rel=1e-4)
        assert norms.weight == pytest.approx(float(weight.detach().norm()))


def test_norms_are_taken_with_dropout(run):
    plain, dropped = (
        inspect(Trainer(resolve({**SMALL, "dropout": dropout}, {}), run.trainer.images), samples=50)
        for dropout in (0.0, 0.5)
    )
    assert plain.sample.loss == dropped.sample.loss
    assert plain.layers["full 1"].firing == dropped.layers["full 1"].firing
    assert plain.layers["full 1"].norms != dropped.layers["full 1"].norms


@pytest.mark.parametrize("per", ["", "layer", "neuron"])
@pytest.mark.parametrize("rule", ["tssl", "stbp", "slayer"])
def test_traced_errors_make_up_the_weights_gradient(run, rule, per):
    learning = {"learn": "tau_mem,tau_syn,threshold", "per": per} if per else {}
    trainer = Trainer(resolve({**SMALL, **learning, "rule": rule}, {}), run.trainer.images)
    trainer.network.load_state_dict(run.trainer.network.state_dict(), strict=not per)
    with torch.no_grad():
        for name, raw in trainer.network.named_parameters():
            if "constants" in name:
                raw += torch.linspace(-0.4, 0.2, raw.numel()).view(raw.shape)
    sample = inspect(trainer, sample=3, neurons=4, samples=10).sample
    seen, loss = layer_by_layer(trainer, 3, 4)
    loss.backward()
    assert sample.loss == pytest.approx(loss.item())
    for name, (x, spikes), layer in zip(("full 1", "output"), seen[1:], (trainer.network[2:]), strict=True):
        traced = sample.traces[name]
        rows = list(traced.indices)
        assert torch.equal(sample.spikes[name], spikes[:, 0].bool())
        assert torch.equal(traced.membrane.spikes, spikes[:, 0, rows])
        # dL/dW = sum_t e[t] s_in[t]: float32 sums of five steps.
        want = layer.weight.grad[rows]
        assert want.any()
        got = torch.einsum("tk,ti->ki", traced.error.grad_current, x[:, 0].flatten(1))
        assert_close(name, got, want, rtol=1e-5, atol=1e-6 * float(want.abs().max()))
        assert torch.equal(traced.membrane.membrane > traced.constants.threshold, traced.membrane.spikes == 1)
        assert len(traced.constants.tau_mem.unique()) == (4 if per == "neuron" else 1)


def test_learnt_constants_are_reported(run):
    settings = {**SMALL, "learn": "tau_mem", "per": "neuron", "tau_mem": 3.0}
    trainer = Trainer(resolve(settings, {}), run.trainer.images)
    with torch.no_grad():
        trainer.network[0].constants.raw_tau_mem += torch.linspace(-1, 1, 6)[:, None, None]
    found = inspect(trainer, sample=0, neurons=2, samples=10)
    low, mean, high = found.layers["conv 1"].learnt["tau_mem"]
    assert (low, high) == pytest.approx((1 + 2 * math.exp(-1), 1 + 2 * math.exp(1)))
    assert low < mean < high
    text = page(found, figures.pictures(found))
    assert "before learning tau_mem, one value per neuron" in text
    assert f"conv 1 has learnt tau_mem {mean:.3g} ({low:.3g} to {high:.3g})" in text
    assert "output has learnt tau_mem 3<" in text
    dumped = json.loads(json.dumps(found.as_dict()))
    assert dumped["layers"][0]["learnt"]["tau_mem"]["lowest"] == pytest.approx(low)
    assert low <= dumped["sample"]["neurons"][0]["constants"]["tau_mem"] <= high


def test_the_network_stays_as_it_is(run):
    trainer = Trainer(resolve({**SMALL, "dropout": 0.3}, {}), run.trainer.images)
    trainer.network.train()
    weights, random = [w.detach().clone() for w in trainer.network.parameters()], torch.get_rng_state()
    inspect(trainer, samples=20)
    assert trainer.network.training
    assert torch.equal(torch.get_rng_state(), random)
    for now, before in zip(trainer.network.parameters(), weights, strict=True):
        assert torch.equal(now, before)
        assert now.grad is None
    assert not any(module._forward_hooks for module in trainer.network.modules())


def counter(spikes_of_each):
    made = SpikeCounter(5)
    made.spikes = torch.tensor(spikes_of_each)
    return made


def test_the_choice_of_neurons():
    # Spikes in the sample 0, 1, 2, 3, 3, 0 and 0; neuron 5 fires in other samples more often than 0 and 6.
    spikes = torch.arange(5)[:, None] < torch.tensor([0, 1, 2, 3, 3, 0, 0])
    many = counter([2, 9, 9, 8, 9, 7, 2])
    assert choose_neurons(spikes, many, 1) == (4,)
    assert choose_neurons(spikes, many, 3) == (4, 2, 5)
    assert choose_neurons(spikes, many, 5) == (4, 3, 2, 1, 5)
    assert choose_neurons(spikes, many, 9) == (4, 3, 2, 1, 5, 0, 6)
    assert choose_neurons(torch.ones(5, 3, dtype=torch.bool), counter([5, 5, 5]), 3) == (0, 1, 2)


def test_named_neurons():
    shapes = {"conv 1": (6, 8, 8), "full 1": (20,), "output": (10,)}
    words = ("conv1:2,3,4", "CONV 1:0", "output:7", "output:7")
    assert find_neurons([read_neuron(word) for word in words], shapes) == {
        "conv 1": (2 * 64 + 3 * 8 + 4, 0),
        "full 1": (),
        "output": (7,),
    }
    assert position(2 * 64 + 3 * 8 + 4, (6, 8, 8)) == (2, 3, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--sample 360", r"sample must be one of the 360 test images, 0 to 359; got 360"),
        ("--sample -1", r"sample must be an integer >= 0, got -1"),
        ("--samples 0", r"samples must be an integer >= 1, got 0"),
        ("--neurons 0", r"neurons must be an integer >= 1, got 0"),
        ("--neurons 3 full1:2", r"neurons must be a number .* as LAYER:INDEX such as .*; got '3'"),
        ("--neurons full1:x", r"neurons must be a number .*; got 'full1:x'"),
        ("--neurons full7:0", r"neurons: there is no layer 'full7'; layers are conv1, full1, output"),
        ("--neurons full1:20", r"neurons: full 1 has neurons 0 to 19; got 20"),
        ("--neurons conv1:0,8,0", r"neurons: conv 1 has neurons 0 to 383, or 3 numbers below 6, 8, 8; got 0,8,0"),
    ],
)
def test_errors_are_one_line(run, tmp_path, capsys, words, message):
    assert cli.main(["inspect", str(run.folder), "--out", str(tmp_path / "new"), *words.split()]) == 2
    assert re.fullmatch(f"tssl: error: {message}\n", capsys.readouterr().err)
    assert not (tmp_path / "new").exists()


def test_no_run_and_a_run_without_spikes(tmp_path, capsys):
    assert cli.main(["inspect", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"tssl: error: no checkpoint at {tmp_path / 'none' / 'checkpoint.pt'}\n"
    trainer = Trainer(resolve({**SMALL, "rule": "ann"}, {}), data.load("digits"))
    with pytest.raises(ConfigError, match=r"rule 'ann' has no spiking neurons: spikes, membrane potentials, .* not"):
        inspect(trainer)


def test_the_command(run, capsys):
    words = ["--sample", "3", "--neurons", "full1:4", "full1:9", "output:2", "--samples", str(SAMPLES)]
    assert cli.main(["inspect", str(run.folder), *words]) == 0
    out = capsys.readouterr().out
    assert "| conv 1 | 384 " in out
    label = int(run.trainer.images.test_labels[3])
    assert f"test sample 3: class {label}, predicted " in out

    folder = run.folder / "inspect"
    names = ["layers.png", "spikes.png", "traces-full-1.png", "traces-output.png"]
    assert sorted(path.name for path in folder.iterdir()) == ["inspect.html", "inspect.json", *names]
    page = (folder / "inspect.html").read_text()
    shown = [base64.b64decode(text) for text in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert sorted(shown) == sorted((folder / name).read_bytes() for name in names)
    assert all(png.startswith(PNG) for png in shown)
    # Nothing is loaded from elsewhere.
    assert not re.search(r"https?:|<link|<script|url\(", page)
    assert len(re.findall(r'src="', page)) == len(names)
    for name in names:
        width, height = struct.unpack(">II", (folder / name).read_bytes()[16:24])
        assert 400 < width < 2000
        assert 200 < height < 2000

    content = json.loads((folder / "inspect.json").read_text())
    assert content["sample"]["label"] == label
    assert [(each["layer"], each["index"]) for each in content["sample"]["neurons"]] == [
        ("full 1", 4),
        ("full 1", 9),
        ("output", 2),
    ]
    for each in content["sample"]["neurons"]:
        assert [int(u > 1) for u in each["u"]] == each["s"]
    assert content["samples"] == SAMPLES


def test_ctrl_c_leaves_nothing(run, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(figures, "traces", interrupted)
    out = tmp_path / "new"
    assert cli.main(["inspect", str(run.folder), "--out", str(out), "--samples", "10"]) == 130
    assert capsys.readouterr().err == "tssl: interrupted\n"
    assert not out.exists()


def test_a_recording_is_presented_step_by_step(tmp_path):
    write_n_mnist(tmp_path, train=10, test=10, events=400)
    settings = {"dataset": "n-mnist", "arch": "10", "steps": 12, "bin_ms": 9.0, "downsample": 2, "weight_scale": 2.0}
    settings |= {"desired_count": 5.0, "device": "cpu", "data_root": str(tmp_path), "download": False, "padding": "0"}
    config = resolve(settings, {})
    found = inspect(Trainer(config, load_data(config)), sample=2, neurons=2)
    assert found.samples == 10
    assert found.sample.values.shape == (12, 2, 17, 17)
    traced = found.sample.traces["full 1"]
    # y is the product with each step's events.
    weight = found.trainer.network[0].weight[list(traced.indices)].detach()
    assert_close("y", traced.y, found.sample.values.flatten(1) @ weight.T, atol=1e-5)
    assert figures.spikes(found).startswith(PNG)


@pytest.mark.parametrize("weight", [0.0, float("nan")])
def test_a_dead_network_can_be_looked_at(weight, tmp_path):
    trainer = Trainer(resolve({**SMALL, "arch": "5", "rule": "stbp"}, {}), data.load("digits"))
    with torch.no_grad():
        trainer.network[0].weight.fill_(weight)
    found = inspect(trainer, neurons=1, samples=10)
    assert found.layers["full 1"].silent == 5
    written = write(tmp_path / "new", found)
    assert all(path.stat().st_size for path in written)
