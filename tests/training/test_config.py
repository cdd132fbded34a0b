"""Settings: sources, precedence and errors."""

import dataclasses
import sys

import pytest

from tssl_triton import SLAYER, STBP, TSSL, LIFParameters
from tssl_triton.training import DATASET_DEFAULTS, ConfigError, TrainConfig, read_toml, resolve, write_toml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_general_defaults_are_valid():
    assert TrainConfig().dataset == "digits"


@pytest.mark.parametrize("dataset", DATASET_DEFAULTS)
def test_dataset_defaults_are_valid_and_used(dataset):
    config = resolve({"dataset": dataset}, {})
    for name, value in DATASET_DEFAULTS[dataset].items():
        assert getattr(config, name) == value


def test_a_flag_beats_the_file_beats_the_dataset_beats_the_default():
    assert "epochs" in DATASET_DEFAULTS["mnist"]
    assert "steps" not in DATASET_DEFAULTS["mnist"]
    dataset_epochs = DATASET_DEFAULTS["mnist"]["epochs"]
    assert resolve({"epochs": 7}, {"dataset": "mnist", "epochs": 8}).epochs == 7
    assert resolve({}, {"dataset": "mnist", "epochs": 8}).epochs == 8
    assert resolve({"dataset": "mnist"}, {}).epochs == dataset_epochs != TrainConfig.epochs
    assert resolve({"dataset": "mnist"}, {}).steps == TrainConfig.steps
    assert resolve({"dataset": "mnist"}, {"dataset": "digits"}).arch == DATASET_DEFAULTS["mnist"]["arch"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dataset": "mnist", "lr": 1e-05, "download": False, "clip_norm": 0, "seed": 2**62},
        {"rule": "ann", "tau_mem": float("inf")},
        {"learn": "tau_mem, threshold", "per": "neuron"},
        {"data_root": 'a "quoted" \\ folder\tand \u00fcml\u00e4ute \U0001f600', "pattern": "0110", "padding": "same"},
    ],
)
def test_toml_round_trip(tmp_path, settings):
    config = resolve(settings, {})
    path = tmp_path / "config.toml"
    path.write_text(write_toml(config), encoding="utf-8")
    assert resolve({}, read_toml(path)) == config
    assert set(tomllib.loads(path.read_text(encoding="utf-8"))) == {f.name for f in dataclasses.fields(TrainConfig)}


def test_toml_may_spell_patterns_paddings_and_names_as_lists(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('pattern = [0, 1, 1]\npadding = [1, "same"]\nlearn = ["tau_mem", "threshold"]\nlr = 1\n')
    config = resolve({}, read_toml(path))
    assert config.learnt() == ("tau_mem", "threshold")
    assert resolve({"learn": []}, {}).learnt() == resolve({}, {}).learnt() == ()
    assert config.pattern == "011"
    assert config.paddings() == [1, "same"]
    assert config.lr == 1.0
    path.write_text("padding = 2\n")
    assert resolve({}, read_toml(path)).paddings() == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate = 1", "unknown setting 'learning_rate' in .*config.toml"),
        ("epoch = 1", "unknown setting 'epoch' in .*config.toml; did you mean 'epochs'"),
        ('tau-mem = "x"', "unknown setting 'tau-mem' in .*; did you mean 'tau_mem'"),
        ("[train]\nepochs = 1", "unknown setting 'train' in .*config.toml"),
        ("zzzzzz = 1", "unknown setting 'zzzzzz' in .*config.toml; known are dataset, "),
        ("epochs = = 1", "configuration file .*config.toml is not valid TOML: "),
        ("\xff", "configuration file .*config.toml is not valid TOML: "),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        read_toml(path)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read configuration file .*none\.toml: No such file"):
        read_toml(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"dataset": "cifar"},
            "dataset must be one of digits, mnist, fashion-mnist, cifar10, n-mnist, dvs-gesture, got 'cifar'",
        ),
        ({"dataset": 3}, "dataset must be text, got 3"),
        ({"optimizer": "sgd"}, "optimizer must be one of adamw, adam, got 'sgd'"),
        ({"epochs": 1.5}, r"epochs must be an integer, got 1\.5"),
        ({"epochs": True}, "epochs must be an integer, got True"),
        ({"epochs": -1}, "epochs must be >= 0, got -1"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"lr": 0}, r"lr must be > 0, got 0\.0"),
        ({"bin_ms": 0}, r"bin_ms must be > 0, got 0\.0"),
        ({"downsample": 0}, "downsample must be >= 1, got 0"),
        ({"augment": True}, "augment must be false for digits; cifar10 can be augmented"),
        ({"lr": "fast"}, "lr must be a number, got 'fast'"),
        ({"lr": float("nan")}, "lr must be finite, got nan"),
        ({"lr": float("inf")}, "lr must be finite, got inf"),
        ({"download": "no"}, "download must be true or false, got 'no'"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1\.0"),
        ({"tau_syn": float("inf")}, "tau_syn must be finite, got inf"),
        ({"tau_mem": float("nan")}, "tau_mem must be finite, got nan"),
        ({"tau_mem": 0.5}, "tau_mem must be a finite number >= 1"),
        ({"tau_syn": -3}, "tau_syn must be a finite number >= 1"),
        ({"reset": "soft"}, "reset must be one of zero, subtract, got 'soft'"),
        ({"rule": "hebb"}, "rule must be one of tssl, stbp, slayer, ann, got 'hebb'"),
        ({"surrogate": "gauss"}, "surrogate must be one of auto, rectangular, .*, exponential, got 'gauss'"),
        ({"surrogate_width": 0}, r"surrogate_width must be > 0, got 0\.0"),
        ({"reset_gradient": "none"}, "reset_gradient must be one of full, detached, got 'none'"),
        (
            {"rule": "slayer", "surrogate": "arctan"},
            "surrogate must be auto or exponential for rule slayer, got 'arctan'",
        ),
        ({"pattern": "x"}, "pattern must be .* got 'x'"),
        ({"padding": "x"}, "padding must be a number, 'same', or one of these per convolution such as 1,0, got 'x'"),
        ({"padding": -1}, "padding must be .* got '-1'"),
        ({"arch": "15C5-X"}, "architecture: token 'X' is not"),
        ({"loss": "count", "desired_count": 9}, r"desired_count must be undesired_count <= .* got 9\.0"),
        ({"device": "tpu"}, "device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        ({"device": "meta"}, "device must be auto, cpu, cuda or cuda:N, got 'meta'"),
        ({"learn": "tau"}, "learn must be names among tau_mem, tau_syn, threshold, each at most once, got 'tau'"),
        ({"learn": "tau_mem,tau_mem"}, "learn must be .* each at most once"),
        ({"learn": "tau_mem", "rule": "ann"}, "learn must be empty for rule ann, got 'tau_mem'"),
        ({"learn": "tau_mem", "recompute": True}, "learn must be empty with recompute or fused always, got 'tau_mem'"),
        ({"per": "synapse"}, "per must be one of layer, neuron, got 'synapse'"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"seed": 2**63}, "seed must be below"),
        ({"wheight_scale": 1.0}, "unknown setting 'wheight_scale'; did you mean 'weight_scale'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        resolve(settings, {})


def test_neuron_carries_the_constants():
    config = resolve({"tau_mem": 8, "tau_syn": 2, "reset": "subtract", "warmup": "off", "variant": "paper"}, {})
    assert config.neuron() == LIFParameters(tau_mem=8, tau_syn=2, reset="subtract", warmup="off", variant="paper")


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({}, TSSL()),
        ({"rule": "stbp"}, STBP("rectangular", 1.0, "full")),
        (
            {"rule": "stbp", "surrogate": "arctan", "surrogate_width": 0.5, "reset_gradient": "detached"},
            STBP("arctan", 0.5, "detached"),
        ),
        ({"rule": "slayer"}, SLAYER()),
        ({"rule": "slayer", "surrogate": "exponential", "surrogate_width": 2}, SLAYER(width=2.0)),
    ],
)
def test_learning_rule(settings, rule):
    assert resolve(settings, {}).learning_rule() == rule
