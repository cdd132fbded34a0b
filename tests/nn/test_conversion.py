"""Conversion: rates approach activations by the bounds that integrate-and-fire neurons obey."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from tssl_triton import cli, data
from tssl_triton.nn import (
    ANN,
    LIF,
    ConversionError,
    Pool2d,
    RunningPercentile,
    activation_scales,
    build_ann,
    conversion,
    convert,
)
from tssl_triton.studies import convert as conversion_report
from tssl_triton.training import ConfigError, Trainer, resolve

MARKS = (1, 2, 5, 16, 50, 101)


@pytest.fixture(autouse=True)
def _eager(eager):
    """Compiling the loops would take longer than these tests; the arithmetic is the same."""


@pytest.fixture(scope="module")
def trained():
    """An ANN with convolution, pooling and two fully connected layers, trained on digits."""
    settings = {"rule": "ann", "arch": "6C3-P2-32-16", "lr": 1e-2, "epochs": 3, "device": "cpu"}
    trainer = Trainer(resolve(settings, {}), data.load("digits"))
    while trainer.epoch < 3:
        assert trainer.train_epoch()
    assert trainer.history[-1]["test_accuracy"] > 0.85
    trainer.network.eval()
    return trainer


def one_layer(features):
    """Rectified units whose activations, and logits, are their inputs."""
    layers = [nn.Linear(features, features, bias=False) for _ in range(2)]
    for layer in layers:
        layer.weight = nn.Parameter(torch.eye(features))
    return ANN([layers[0], nn.ReLU(), layers[1]], (features,))


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("initial", [0.0, 0.5, 1.0])
def test_rates_of_one_layer_are_within_a_spike_of_the_activations(scale, initial):
    inputs = torch.linspace(-1.5, 1.5, 301).double()[None] * scale
    network = convert(one_layer(301).double(), [scale], initial)
    activations = (inputs / scale).clamp(0, 1)
    for steps, rates in zip(MARKS, network(inputs, MARKS) / scale, strict=True):
        # v[T] = initial + T x - count stays in [0, 1], so count / T - x = (initial - v[T]) / T.
        error = (rates - activations) * steps
        assert error.min() >= initial - 1 - 1e-9
        assert error.max() <= initial + 1e-9
        counts = rates * steps
        torch.testing.assert_close(counts, counts.round())


def test_errors_fall_as_one_over_t(trained):
    network, _ = conversion_report.converted(trained, percentile=100, samples=10**6, initial=0.5)
    x = trained.images.test_batch(0, 100)[0]
    logits = trained.network(x)
    marks = (25, 100, 400)
    errors = [(estimate - logits).abs().mean() for estimate in network(x, marks)]
    assert errors[-1] < 0.02 * logits.abs().mean()
    for earlier, later in itertools.pairwise(errors):
        assert 2 < earlier / later < 8, errors


def test_rates_of_every_layer_approach_its_activations(trained):
    network, scales = conversion_report.converted(trained, percentile=100, samples=10**6, initial=0.5)
    x = trained.images.test_batch(0, 50)[0]
    activations, counts = [], {}
    hooks = [
        layer.register_forward_hook(lambda layer, args, out: activations.append(out))
        for layer in trained.network
        if isinstance(layer, nn.ReLU)
    ]

    def count(layer, args, out):
        counts[layer] = counts.get(layer, 0) + out[0].sum(0)

    trained.network(x)
    for hook in hooks:
        hook.remove()
    network.initial = 0.0  # the step that only asks for shapes would be counted too
    for layer in network.hidden:
        if isinstance(layer, LIF):
            layer.register_forward_hook(count)
    network(x, [800])
    assert len(counts) == len(scales) == 3
    for layer, activation, scale in zip(counts, activations, scales, strict=True):
        rates = counts[layer] / 800
        assert (rates - activation / scale).abs().mean() < 0.01
        assert rates.max() <= 1


def test_accuracy_at_many_steps_is_that_of_the_ann(trained):
    result = conversion_report.measure(trained, (5, 50, 300))
    assert abs(result.accuracies[-1] - result.ann_accuracy) <= 0.01
    assert result.ann_accuracy == trained.history[-1]["test_accuracy"]
    assert result.samples == 1000
    assert len(result.scales) == 3


def test_windows_and_marks_change_nothing(trained, monkeypatch):
    network, _ = conversion_report.converted(trained, initial=0.5)
    x = trained.images.test_batch(0, 20)[0]
    whole = network(x, (12, 36, 60))
    alone = network(x, (36,))
    monkeypatch.setattr(conversion, "LONGEST_WINDOW", 1)
    torch.testing.assert_close(network(x, (12, 36, 60)), whole)
    torch.testing.assert_close(alone[0], whole[1])


@pytest.mark.parametrize(("marks", "window"), [((5, 10, 400), 5), ((48, 96), 16), ((7, 10), 1), ((34,), 2), ((3,), 3)])
def test_a_window_divides_every_mark(marks, window):
    assert conversion._window(marks) == window


def test_biases_and_both_poolings():
    torch.manual_seed(0)
    for kind in ("sum", "average"):
        layers = [nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), Pool2d((2, 2), kind), nn.Flatten()]
        ann = ANN([*layers, nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3)], (2, 8, 8))
        x = torch.randn(40, 2, 8, 8)
        scales = activation_scales(ann, [x], 40, 100)
        estimate = convert(ann, scales, 0.5)(x, (2000,))[0]
        torch.testing.assert_close(estimate, ann(x), atol=0.01, rtol=0)


def test_a_network_of_pooling_alone_is_read_as_it_is():
    ann = build_ann("P2", (1, 4, 4), 3)
    x = torch.randn(5, 1, 4, 4)
    torch.testing.assert_close(convert(ann, [])(x, (3, 9)), ann(x).expand(2, 5, 3))


def test_weights_are_rescaled_by_neighbouring_scales():
    ann = build_ann("3-2", (4,), 2)
    first, second, last = (layer.weight for layer in ann if isinstance(layer, nn.Linear))
    network = convert(ann, [2.0, 5.0])
    torch.testing.assert_close(network.hidden[0].weight, first / 2)
    torch.testing.assert_close(network.hidden[1].weight, second * (2 / 5))
    torch.testing.assert_close(network.readout.weight, last * 5)
    neuron = network.hidden[0].params
    assert (neuron.alpha, neuron.beta, neuron.threshold, neuron.reset) == (1, 0, 1, "subtract")


# --- percentiles ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "percentile", "expected"),
    [
        (range(11), 90, 9.0),
        (range(11), 100, 10.0),
        (range(11), 95, 9.5),  # place 9.5 of 0..10
        ([4.0, 1.0, 3.0], 50, 3.0),
        ([0.0, 0.0, 0.0, 8.0], 75, 2.0),  # place 2.25: a quarter of the way from 0 to 8
        ([7.0], 99.9, 7.0),
    ],
)
def test_percentiles_by_hand(values, percentile, expected):
    running = RunningPercentile(percentile, len(values))
    running.add(torch.tensor(list(values), dtype=torch.float64))
    assert running.value() == pytest.approx(expected)


@pytest.mark.parametrize("percentile", [0.5, 37.0, 99.0, 99.9, 100])
def test_percentiles_in_pieces_are_those_of_numpy(percentile):
    values = torch.randn(5000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    running = RunningPercentile(percentile, 5000)
    for piece in values.split([1, 999, 3000, 1000]):
        running.add(piece.view(-1, 1))
    assert running.value() == pytest.approx(np.percentile(values.numpy(), percentile), rel=1e-12)


def test_a_percentile_of_missing_values_is_an_error():
    running = RunningPercentile(50, 4)
    running.add(torch.zeros(3))
    with pytest.raises(ValueError, match="4 values were to come, 3 did"):
        running.value()


def test_scales_are_percentiles_of_activations_zeros_included():
    ann = one_layer(4)
    x = torch.tensor([[-1.0, 2.0, 3.0, -5.0], [6.0, -1.0, -1.0, 4.0]])  # activations 0 0 0 0 2 3 4 6
    assert activation_scales(ann, x.split(1), 2, 100) == [6.0]
    assert activation_scales(ann, [x], 2, 75) == pytest.approx([3.25])
    with pytest.raises(ConversionError, match=r"percentile 30 of the activations of layer 1 is 0: .* raise the"):
        activation_scales(ann, [x], 2, 30)


def test_scales_are_measured_without_dropout(trained):
    settings = {"dropout": 0.5, "rule": "ann", "arch": "20", "device": "cpu"}
    trainer = Trainer(resolve(settings, {}), trained.images)
    trainer.network.train()
    first, second = (conversion_report.converted(trainer)[1] for _ in range(2))
    assert first == second
    assert trainer.network.training


# --- errors and the command -------------------------------------------------------------------------------------


def test_errors_name_the_argument():
    ann = build_ann("3", (4,), 2)
    with pytest.raises(TypeError, match="ann must be an ANN"):
        convert(nn.Sequential(), [])
    with pytest.raises(ValueError, match="scales must hold one number per rectified layer, 1, got 2"):
        convert(ann, [1.0, 1.0])
    with pytest.raises(ValueError, match=r"every scale must be > 0, got 0\.0"):
        convert(ann, [0.0])
    with pytest.raises(ValueError, match=r"initial must be in \[0, 1\], got 2"):
        convert(ann, [1.0], initial=2)
    with pytest.raises(ValueError, match=r"percentile must be in \(0, 100\], got 0"):
        activation_scales(ann, [], 1, 0)
    network = convert(ann, [1.0])
    for marks in ((), (5, 5), (9, 3)):
        with pytest.raises(ValueError, match="marks must be rising numbers of time steps"):
            network(torch.zeros(1, 4), marks)
    with pytest.raises(ValueError, match="every number of steps must be an integer >= 1, got 0"):
        network(torch.zeros(1, 4), (0, 3))
    with pytest.raises(ConversionError, match=r"cannot be converted: Pool2d\(.*kind='max'\); pooling must be"):
        convert(build_ann("P2-3", (1, 4, 4), 2, pool="max"), [1.0])


@pytest.mark.parametrize(
    "options", [{"padding_mode": "circular", "padding": 1}, {"groups": 2}, {"dilation": 2}, {"padding": "same"}]
)
def test_convolutions_that_a_spiking_layer_cannot_be(options):
    ann = ANN([nn.Conv2d(2, 4, 3, **options), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3)], (2, 8, 8))
    with pytest.raises(ConversionError, match=r"cannot be converted: Conv2d.*convolutions without groups"):
        convert(ann, [1.0])


def test_a_spiking_run_cannot_be_converted(trained):
    trainer = Trainer(resolve({"arch": "8", "device": "cpu"}, {}), trained.images)
    with pytest.raises(ConfigError, match=r"rule of the run must be 'ann' .* got 'tssl'"):
        conversion_report.measure(trainer)


def test_the_command(tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    words = ["train", "--rule", "ann", "--arch", "24", "--epochs", "1", "--progress", "lines", "--run-dir", str(run)]
    assert cli.main(words) == 0
    assert "no time steps" in capsys.readouterr().out
    words = ["convert", str(run), "--steps", "20", "4", "--percentile", "99", "--samples", "200", "--initial", "0.5"]
    assert cli.main([*words, "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:5]] == ["4", "20", "ANN"]
    content = json.loads((out / "conversion.json").read_text())
    assert (content["steps"], content["percentile"], content["samples"]) == ([4, 20], 99.0, 200)
    assert lines[3].split("|")[2].strip() == f"{content['accuracies'][1]:.2f}"
    assert math.isclose(content["ann_accuracy"], 100 * json.loads((run / "metrics.jsonl").read_text())["test_accuracy"])
    assert (out / "conversion.png").read_bytes().startswith(b"\x89PNG")
    for flags, message in (
        (["--percentile", "0"], "percentile must be in (0, 100], got 0.0"),
        (["--samples", "0"], "samples must be an integer >= 1, got 0"),
        (["--steps", "0"], "every number of steps must be an integer >= 1, got 0"),
    ):
        assert cli.main(["convert", str(run), *flags]) == 2
        assert capsys.readouterr().err == f"tssl: error: {message}\n"
