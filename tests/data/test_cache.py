"""The cache of binned recordings: used if valid and up to date, else made again."""

import json
import os
import sys
import warnings

import numpy as np
import pytest
import torch
from event_files import atis_bytes, write_n_mnist

from tssl_triton import data
from tssl_triton.data import cache, n_mnist


@pytest.fixture
def root(tmp_path):
    write_n_mnist(tmp_path)
    return tmp_path


@pytest.fixture
def read(monkeypatch):
    """Names of the files whose events were read."""
    names = []
    original = n_mnist.read_events

    def noticed(name, raw):
        names.append(name)
        return original(name, raw)

    monkeypatch.setattr(n_mnist, "read_events", noticed)
    return names


def load(root, **options):
    return data.load("n-mnist", root, download=False, **{"steps": 10, **options})


def cached(root):
    return sorted(path.name for path in (root / "NMNIST" / "cache").iterdir())


def test_the_second_time_nothing_is_read(root, read):
    first = load(root)
    assert len(read) == 30
    second = load(root)
    assert len(read) == 30
    assert np.array_equal(first.train_bits, second.train_bits)
    assert torch.equal(first.train_labels, second.train_labels)
    assert torch.equal(first.train_batch(torch.arange(20))[0], second.train_batch(torch.arange(20))[0])
    assert isinstance(second.train_bits, np.memmap)


def test_files_say_what_is_in_them(root):
    images = load(root, bin_ms=2.5, downsample=2)
    assert cached(root) == [
        f"{half}-2.5ms-10steps-17x17.{kind}" for half in ("test", "train") for kind in ("json", "npy")
    ]
    bits = np.load(root / "NMNIST" / "cache" / "train-2.5ms-10steps-17x17.npy")
    assert bits.shape == (20, 10, -(-2 * 17 * 17 // 8))
    assert np.array_equal(bits, images.train_bits)


@pytest.mark.parametrize("options", [{"steps": 11}, {"bin_ms": 3.0000001}, {"downsample": 2}])
def test_other_settings_have_a_cache_of_their_own(root, read, options):
    load(root)
    load(root, **options)
    assert len(read) == 60
    load(root)
    load(root, **options)
    assert len(read) == 60


def test_a_changed_file_makes_the_half_anew(root, read):
    load(root)
    path = root / "NMNIST" / "Train" / "0" / "00000.bin"
    path.write_bytes(atis_bytes([(1, 2, 1, 0)]))
    values = load(root).train_batch(torch.tensor([0]))[0]
    assert len(read) == 50, "the test half was not touched"
    assert values.sum() == 1
    assert values[0, 0, 1, 2, 1] == 1


def test_a_file_of_the_same_size_but_a_later_time_is_read_again(root, read):
    load(root)
    path = root / "NMNIST" / "Test" / "0" / "00000.bin"
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
    load(root)
    assert len(read) == 40


def test_an_added_file_makes_the_half_anew(root):
    load(root)
    (root / "NMNIST" / "Test" / "5" / "99999.bin").write_bytes(atis_bytes([(1, 2, 1, 0)]))
    assert len(load(root).test_labels) == 11


def flip(path):
    """Flip one of the last spikes, or a label."""
    raw = bytearray(path.read_bytes())
    raw[-7] ^= 4
    path.write_bytes(raw)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("not what it was")


@pytest.mark.parametrize("kind", ["npy", "json"])
@pytest.mark.parametrize("damage", [flip, cut, empty, text])
def test_a_damaged_cache_is_noticed_and_made_again(root, read, kind, damage):
    before = load(root)
    bits = before.train_bits.copy()
    path = root / "NMNIST" / "cache" / f"train-3.0ms-10steps-34x34.{kind}"
    del before
    damage(path)
    with pytest.warns(UserWarning, match=r"the cache .*train-3.0ms-10steps-34x34\.npy cannot be used \(.*made again"):
        after = load(root)
    assert np.array_equal(after.train_bits, bits)
    assert len(read) == 50
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(root)


@pytest.mark.parametrize("kind", ["npy", "json"])
def test_half_a_cache_is_none(root, read, kind):
    load(root)
    (root / "NMNIST" / "cache" / f"train-3.0ms-10steps-34x34.{kind}").unlink()
    load(root)
    assert len(read) == 50


def test_a_cache_of_another_version_is_made_again(root, read, monkeypatch):
    load(root)
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    load(root)
    assert len(read) == 60


def test_a_whole_cache_is_enough(root, read):
    before = load(root)
    for half in ("Train", "Test"):
        (root / "NMNIST" / half).rename(root / half)
    after = load(root)
    assert len(read) == 30
    assert np.array_equal(before.test_bits, after.test_bits)
    with pytest.raises(data.DataError, match="n-mnist not found"):
        load(root, steps=11)


def test_a_damaged_cache_without_its_sources_is_not_enough(root):
    load(root)
    (root / "NMNIST" / "Train").rename(root / "away")
    cut(root / "NMNIST" / "cache" / "train-3.0ms-10steps-34x34.npy")
    with (
        pytest.warns(UserWarning, match="its sources are gone, so it cannot be made again"),
        pytest.raises(data.DataError, match="n-mnist not found"),
    ):
        load(root)


def test_an_error_on_the_way_leaves_nothing_behind(root):
    path = root / "NMNIST" / "Test" / "9" / "00009.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(data.DataError, match="truncated"):
        load(root)
    assert cached(root) == ["train-3.0ms-10steps-34x34.json", "train-3.0ms-10steps-34x34.npy"]
    path.write_bytes(whole)
    assert len(load(root).test_labels) == 10


def test_a_folder_that_cannot_be_written(root):
    (root / "NMNIST" / "cache").write_text("a file where a folder was to be")
    with pytest.raises(data.DataError, match=r"the cache .*train-3\.0ms-10steps-34x34\.npy cannot be written"):
        load(root)


def test_the_record_is_small_and_readable(root):
    load(root)
    record = json.loads((root / "NMNIST" / "cache" / "train-3.0ms-10steps-34x34.json").read_text())
    assert record["shape"] == [20, 10, 289]
    assert record["labels"] == sorted(number % 10 for number in range(20))


@pytest.mark.parametrize("tqdm", [True, False])
def test_progress_is_shown_on_a_terminal(monkeypatch, capsys, tqdm):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    if not tqdm:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    assert list(cache.with_progress(iter(range(5)), 5, "n-mnist, train")) == [0, 1, 2, 3, 4]
    assert ("n-mnist, train" in capsys.readouterr().err) == tqdm


def test_nothing_is_shown_elsewhere(capsys):
    assert list(cache.with_progress(iter(range(5)), 5, "n-mnist, train")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""
