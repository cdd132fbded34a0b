"""`bench loading`: random data sets in published formats, and the report."""

import benches  # noqa: F401 - finds bench
import pytest

from bench import loading
from bench.__main__ import parser
from tssl_triton import data


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setenv("TSSL_CPU", "eager")
    monkeypatch.setattr(loading, "N_MNIST_EVENTS", 50)
    monkeypatch.setattr(loading, "GESTURE_EVENTS", 50)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mnist", (1, 28, 28)),
        ("fashion-mnist", (1, 28, 28)),
        ("cifar10", (3, 32, 32)),
        ("n-mnist", (2, 34, 34)),
        ("dvs-gesture", (2, 128, 128)),
    ],
)
def test_random_data_is_in_the_published_format(tmp_path, name, shape):
    with loading.SETS[name](tmp_path, 20):
        images = data.load(name, tmp_path, download=False)
    assert len(images.train_labels) == 20
    assert images.in_shape == shape


SMALL = {"arch": "10", "padding": "0", "epochs": 1, "batch_size": 4, "device": "cpu"}


def test_batches_loaded_ahead():
    row = loading.measure("n-mnist", 2, **SMALL, steps=5, bin_ms=50.0, desired_count=3.0, undesired_count=0.0)
    assert (row.name, row.real, row.batch) == ("n-mnist", False, 4)
    assert row.load > 0
    assert row.step > 0
    assert row.prepare is not None
    assert row.prepare > 0
    assert row.waits_ahead is not None
    assert 0 <= row.waits_ahead <= 1
    assert 0 < row.waits_in_place < 1


def test_batches_not_loaded_ahead():
    row = loading.measure("mnist", 2, **SMALL)
    assert row.waits_ahead is None
    assert row.prepare is None
    heads, line = loading.table([row]).splitlines()
    assert heads.split()[:2] == ["data", "set"]
    assert line.startswith("mnist     random")


def test_the_command_line():
    arguments = parser().parse_args(["loading", "--sets", "cifar10", "n-mnist", "--batches", "5"])
    assert arguments.run is loading.run
    assert arguments.sets == ["cifar10", "n-mnist"]
