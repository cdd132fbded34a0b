"""Training on augmented images and on recordings: bit-identical with prefetching and after resuming."""

import json
import threading

import numpy as np
import pytest
import torch
from cifar_files import write_cifar10
from event_files import write_cut_gestures, write_n_mnist
from trainings import StopAfter, assert_same

from tssl_triton import cli, data
from tssl_triton.training import ConfigError, Trainer, checkpoint, load_data, resolve

COMMON = {"device": "cpu", "download": False, "epochs": 2, "dropout": 0.2}
SMALL = {
    "cifar10": {"dataset": "cifar10", "arch": "4C3-P2-10", "batch_size": 10, "pool": "average", "lr": 1e-2},
    "n-mnist": {
        "dataset": "n-mnist",
        "arch": "4C5-P2-10",
        "padding": "0",
        "weight_scale": 2.0,
        "steps": 10,
        "bin_ms": 9.0,
        "downsample": 2,
        "desired_count": 5.0,
        "undesired_count": 1.0,
        "batch_size": 6,
        "lr": 1e-2,
    },
    "dvs-gesture": {
        "dataset": "dvs-gesture",
        "arch": "4C3-P2-10",
        "downsample": 16,
        "weight_scale": 4.0,
        "steps": 20,
        "tau_mem": 8.0,
        "desired_count": 10.0,
        "undesired_count": 1.0,
        "batch_size": 5,
        "lr": 1e-2,
    },
}


@pytest.fixture(autouse=True)
def _eager(eager):
    """Eager PyTorch: compiling takes longer than these trainings, and the results are the same."""


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.fixture(params=SMALL)
def config(request, tmp_path, monkeypatch):
    """Settings of a small run on a small set."""
    if request.param == "cifar10":
        write_cifar10(tmp_path, monkeypatch)
    elif request.param == "n-mnist":
        write_n_mnist(tmp_path, train=40, test=20)
    else:
        write_cut_gestures(tmp_path, train=3, test=1)
    return resolve({**COMMON, **SMALL[request.param], "data_root": str(tmp_path)}, {})


def trained(config, prefetch):
    trainer = Trainer(config, load_data(config), prefetch)
    assert trainer.images.costly
    while trainer.epoch < config.epochs:
        assert trainer.train_epoch()
    return trainer


def test_prefetched_or_not_interrupted_or_not(config, tmp_path):
    whole = trained(config, prefetch=False)
    assert whole.history[1]["loss"] != whole.history[0]["loss"]
    assert_same(trained(config, prefetch=True), whole)
    path = tmp_path / "checkpoint.pt"
    for questions in (1, 3, whole.batches + 3):
        first = Trainer(config, load_data(config))
        stop = StopAfter(questions)
        while first.train_epoch(stop):
            pass
        assert (first.epoch, first.batch) != (0, 0)
        assert first.batch < first.batches
        checkpoint.save(path, {"config": {}, **first.state()})
        torch.manual_seed(12345)  # whatever the next process has drawn before
        second = Trainer(config, load_data(config))
        second.load_state(checkpoint.load(path), path)
        while second.epoch < config.epochs:
            assert second.train_epoch()
        assert_same(second, whole)


def test_an_error_of_loading_reaches_the_training(config, monkeypatch):
    trainer = Trainer(config, load_data(config))
    kind = type(trainer.images)
    original = kind.training

    def failing(images, seed, epoch):
        make = original(images, seed, epoch)
        left = [2]

        def batch(indices):
            left[0] -= 1
            if left[0] < 0:
                raise OSError("the disk is gone")
            return make(indices)

        return batch

    monkeypatch.setattr(kind, "training", failing)
    with pytest.raises(OSError, match="the disk is gone"):
        trainer.train_epoch()
    assert trainer.batch == 2


def test_epochs_differ_in_their_crops(tmp_path, monkeypatch):
    write_cifar10(tmp_path, monkeypatch)
    settings = {**COMMON, **SMALL["cifar10"], "data_root": str(tmp_path)}
    assert resolve(settings, {}).augment
    trainer = Trainer(resolve(settings, {}), load_data(resolve(settings, {})))
    with trainer.training_batches() as batches:
        first = next(batches)[0]
    trainer.epoch = 1
    with trainer.training_batches() as batches:
        assert not torch.equal(next(batches)[0], first)
    plain = load_data(resolve({**settings, "augment": False}, {}))
    assert not plain.costly


def test_a_setting_that_does_not_fit_the_sensor(tmp_path):
    write_n_mnist(tmp_path)
    settings = {**COMMON, **SMALL["n-mnist"], "data_root": str(tmp_path), "downsample": 4}
    with pytest.raises(ConfigError, match="downsample must divide the sides of n-mnist's sensor"):
        load_data(resolve(settings, {}))


def run(*words):
    return cli.main([str(word) for word in words])


@pytest.mark.parametrize("dataset", ["n-mnist", "dvs-gesture"])
def test_the_command_line_on_recordings(dataset, tmp_path, capsys):
    settings = {**COMMON, **SMALL[dataset], "epochs": 2, "dropout": 0.0, "data_root": tmp_path}
    if dataset == "n-mnist":
        write_n_mnist(tmp_path, train=60, test=20)
        counts = "60 training and 20 test recordings"
    else:
        write_cut_gestures(tmp_path, train=4, test=1)
        counts = "44 training and 11 test recordings"
    words = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if name != "download"]
    folder = tmp_path / "run"
    assert run("train", "--no-download", *words, "--progress", "lines", "--run-dir", folder) == 0
    out = capsys.readouterr().out
    assert f"{dataset}: {counts}; network " in out
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert run("train", "--resume", folder, "--epochs", 3, "--progress", "lines") == 0
    capsys.readouterr()
    assert run("evaluate", folder) == 0
    assert "recordings) after 3 epochs" in capsys.readouterr().out
    assert run("train", "--resume", folder, "--bin-ms", 4) == 2
    assert "cannot be changed to 4.0" in capsys.readouterr().err


def test_the_command_line_names_a_truncated_file(tmp_path, capsys):
    path = write_n_mnist(tmp_path) / "Train" / "3" / "00013.bin"
    path.write_bytes(path.read_bytes()[:-2])
    words = ("--dataset", "n-mnist", "--data-root", tmp_path, "--run-dir", tmp_path / "run")
    assert run("train", *words) == 2
    err = capsys.readouterr().err
    assert (
        err == f"tssl: error: {path} is truncated: its size is 498 bytes, not a multiple of the 5 bytes of an event\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["augmented images", "events"])
def test_a_batch_may_be_empty(kind):
    """A process has an empty share if a batch has fewer samples than there are processes."""
    labels = torch.arange(4)
    if kind == "events":
        bits = np.zeros((4, 5, 7), np.uint8)
        samples = data.EventSet("drawn", bits, labels, bits, labels, 10, (2, 5, 5))
        shape = (5, 0, 2, 5, 5)
    else:
        pixels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
        samples = data.ImageSet("drawn", pixels, labels, pixels, labels, 10, 0.0, 1.0, augment=True)
        shape = (0, 3, 8, 8)
    none = torch.empty(0, dtype=torch.int64)
    for values, of in (samples.training(0, 0)(none), samples.test_batch(2, 2)):
        assert values.shape == shape
        assert of.shape == (0,)
