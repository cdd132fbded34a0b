"""N-MNIST: hand-made files give exactly the expected spikes; errors name damaged files."""

import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from event_files import atis_bytes, write_n_mnist

from tssl_triton import data
from tssl_triton.data.events import unpack
from tssl_triton.data.n_mnist import read_events


def load(root, **options):
    return data.load("n-mnist", root, download=False, **options)


def spikes_of(root, events, **options):
    """The spike train ``(T, 2, 34, 34)`` of a recording that is the first of the training half."""
    folder = write_n_mnist(root, train=10, test=10)
    (folder / "Train" / "0" / "00000.bin").write_bytes(atis_bytes(events))
    values, labels = load(root, **options).train_batch(torch.tensor([0]))
    assert labels.tolist() == [0]
    return values[:, 0]


def expected(steps, *places, shape=(2, 34, 34)):
    """1 at each ``(step, polarity, row, column)``, 0 elsewhere."""
    spikes = torch.zeros(steps, *shape)
    for place in places:
        spikes[place] = 1
    return spikes


def test_the_bytes_of_an_event():
    # x 5, y 7, polarity 1, time 0x123456: the top bit of the third byte is the polarity.
    events = read_events("file", bytes([5, 7, 0x80 | 0x12, 0x34, 0x56, 33, 0, 0x7F, 0xFF, 0xFF]))
    assert [values.tolist() for values in events] == [[5, 33], [7, 0], [1, 0], [0x123456, 0x7FFFFF]]


def test_a_file_gives_exactly_its_spikes(tmp_path):
    events = [
        (0, 0, 0, 0),  # the first pixel at the first moment
        (33, 33, 1, 2_999),  # the last microsecond of the first step
        (4, 9, 1, 3_000),  # the first of the second
        (4, 9, 0, 3_000),  # the other polarity is another channel
        (12, 20, 1, 6_000),
        (12, 20, 1, 6_001),  # twice in one step: one spike
        (12, 20, 1, 5_999),  # out of order, and one step earlier
        (1, 2, 0, 29_999),  # the last microsecond of ten steps
        (3, 3, 1, 30_000),  # beyond them
        (3, 3, 1, 8_000_000),
    ]
    got = spikes_of(tmp_path, events, steps=10)
    places = [
        (0, 0, 0, 0),
        (0, 1, 33, 33),
        (1, 1, 9, 4),
        (1, 0, 9, 4),
        (2, 1, 20, 12),
        (1, 1, 20, 12),
        (9, 0, 2, 1),
    ]
    assert got.dtype == torch.float32
    assert torch.equal(got, expected(10, *places))


@pytest.mark.parametrize(("bin_ms", "step"), [(1.0, 7), (3.0, 2), (3.5, 2), (7.0, 1), (10.0, 0)])
def test_the_bin_width_can_be_chosen(tmp_path, bin_ms, step):
    got = spikes_of(tmp_path, [(5, 6, 1, 7_000)], steps=8, bin_ms=bin_ms)
    assert torch.equal(got, expected(8, (step, 1, 6, 5)))


def test_downsampling_is_presence_in_a_square(tmp_path):
    events = [(0, 0, 0, 0), (1, 1, 0, 1), (2, 1, 0, 2), (33, 32, 1, 3_000)]
    got = spikes_of(tmp_path, events, steps=2, downsample=2)
    assert torch.equal(got, expected(2, (0, 0, 0, 0), (0, 0, 0, 1), (1, 1, 16, 16), shape=(2, 17, 17)))


def test_a_marker_of_overflow_shifts_what_follows_and_is_no_event(tmp_path):
    events = [(1, 1, 0, 100), (0, 240, 0, 8_191), (1, 1, 1, 100), (9, 240, 1, 0), (2, 2, 1, 5)]
    got = spikes_of(tmp_path, events, steps=8)
    assert torch.equal(got, expected(8, (0, 0, 1, 1), ((8_192 + 100) // 3_000, 1, 1, 1), (16_389 // 3_000, 1, 2, 2)))


def test_batches_are_time_major_and_in_the_order_asked_for(tmp_path):
    write_n_mnist(tmp_path, train=30, test=20)
    images = load(tmp_path, steps=12)
    assert (images.name, images.classes, images.in_shape, images.steps) == ("n-mnist", 10, (2, 34, 34), 12)
    # By label, then by file name.
    assert images.train_labels.tolist() == sorted(number % 10 for number in range(30))
    asked = torch.tensor([7, 0, 29, 7])
    values, labels = images.train_batch(asked)
    assert values.shape == (12, 4, 2, 34, 34)
    assert torch.equal(labels, images.train_labels[asked])
    for place, index in enumerate(asked):
        assert torch.equal(values[:, place], images.train_batch(index[None])[0][:, 0])
    tested, labels = images.test_batch(5, 9)
    assert tested.shape == (12, 4, 2, 34, 34)
    assert torch.equal(labels, images.test_labels[5:9])
    assert set(tested.unique().tolist()) == {0.0, 1.0}


def test_every_recording_equals_binning_it_by_hand(tmp_path):
    folder = write_n_mnist(tmp_path, train=20, test=10)
    images = load(tmp_path, steps=25)
    values = images.train_batch(torch.arange(20))[0]
    for place, path in enumerate(sorted(folder.glob("Train/*/*.bin"))):
        raw = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 5).astype(int)
        spikes = np.zeros((25, 2, 34, 34))
        for x, y, high, middle, low in raw:
            step = ((high % 128) * 65536 + middle * 256 + low) // 3000
            if step < 25:
                spikes[step, high // 128, y, x] = 1
        assert np.array_equal(values[:, place].numpy(), spikes), path


def test_batches_on_another_device_are_the_same(tmp_path):
    write_n_mnist(tmp_path)
    images = load(tmp_path, steps=5, downsample=2)  # 578 bits a step: the last byte is not full
    indices = torch.tensor([3, 1])
    moved = images.to("meta")
    values, labels = moved.train_batch(indices)
    assert (values.device.type, labels.device.type) == ("meta", "meta")
    assert (values.shape, values.dtype) == ((5, 2, 2, 17, 17), torch.float32)
    assert moved.train_labels.device.type == "cpu"


@pytest.mark.parametrize("features", [1, 7, 8, 9, 2312])
def test_unpacking_where_the_bytes_are(features):
    bits = np.random.default_rng(features).integers(0, 2, (3, 4, features), dtype=np.uint8)
    got = unpack(torch.from_numpy(np.packbits(bits, axis=-1)), features)
    assert got.is_contiguous()
    assert torch.equal(got, torch.from_numpy(bits).to(torch.float32))


def test_zip_files_as_published(tmp_path):
    folder = write_n_mnist(tmp_path / "folders", train=20, test=10)
    for half in ("Train", "Test"):
        target = tmp_path / "zipped" / "NMNIST" / f"{half}.zip"
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.glob(f"{half}/*/*.bin"), reverse=True):
                archive.write(path, path.relative_to(folder))
    one, other = load(tmp_path / "folders"), load(tmp_path / "zipped")
    assert np.array_equal(one.train_bits, other.train_bits)
    assert np.array_equal(one.test_bits, other.test_bits)
    assert torch.equal(one.train_labels, other.train_labels)


@pytest.mark.parametrize("size", [1, 4, 6, 499])
def test_a_truncated_file_is_named_with_its_size(tmp_path, size):
    path = write_n_mnist(tmp_path, test=10) / "Train" / "4" / "00014.bin"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(data.DataError, match=rf"{path} is truncated: its size is {size} bytes, not a multiple of .* 5"):
        load(tmp_path)
    assert [file for file in (tmp_path / "NMNIST").rglob("*") if "cache" in file.parts and file.is_file()] == []


def test_an_empty_file_is_named(tmp_path):
    path = write_n_mnist(tmp_path) / "Test" / "3" / "00003.bin"
    path.write_bytes(b"")
    with pytest.raises(data.DataError, match=f"{path} is empty"):
        load(tmp_path)


@pytest.mark.parametrize(("event", "where"), [((34, 0, 0, 1), "x 34, y 0"), ((3, 239, 1, 9), "x 3, y 239")])
def test_an_event_outside_the_sensor_names_the_file(tmp_path, event, where):
    path = write_n_mnist(tmp_path) / "Train" / "1" / "00001.bin"
    path.write_bytes(atis_bytes([(0, 0, 0, 0), event]))
    with pytest.raises(data.DataError, match=rf"{path} is damaged: event 1 of 2 has {where}, .* 34x34 pixels"):
        load(tmp_path)


def test_a_missing_class_is_named(tmp_path):
    folder = write_n_mnist(tmp_path, train=20, test=9)
    with pytest.raises(data.DataError, match=rf"n-mnist is incomplete: no \*.bin files in {folder / 'Test' / '9'}"):
        load(tmp_path)


def test_a_zip_file_that_is_none(tmp_path):
    write_n_mnist(tmp_path)
    (tmp_path / "NMNIST" / "Train").rename(tmp_path / "away")
    path = tmp_path / "NMNIST" / "Train.zip"
    path.write_bytes(b"not a zip file")
    with pytest.raises(data.DataError, match=f"{path} is damaged or not a zip file"):
        load(tmp_path)


def test_a_damaged_member_of_a_zip_file(tmp_path):
    folder = write_n_mnist(tmp_path)
    path = folder / "Train.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.glob("Train/*/*.bin")):
            archive.write(file, file.relative_to(folder))
    (folder / "Train").rename(tmp_path / "away")
    raw = bytearray(path.read_bytes())
    raw[500] ^= 1
    path.write_bytes(raw)
    with pytest.raises(data.DataError, match=f"{path} is damaged or not a zip file: Bad CRC-32"):
        load(tmp_path)


def test_missing_files_say_what_goes_where(tmp_path):
    with pytest.raises(data.DataError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert message.startswith("n-mnist not found: looked for Train/0 to Train/9 with *.bin files, or Train.zip, in ")
    assert str(tmp_path / "NMNIST") in message
    assert "https://www.garrickorchard.com/datasets/n-mnist" in message
    assert "allow the download" in message


def test_without_tonic_a_download_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tonic", None)
    with pytest.raises(data.DataError, match=r"n-mnist not found: .* pip install 'tssl-triton\[events\]'"):
        data.load("n-mnist", tmp_path)


def test_tonic_downloads_what_is_missing(tmp_path, monkeypatch):
    """Use a stand-in for tonic with the same constructor and the same files."""
    asked = []

    class NMNIST:
        def __init__(self, save_to, train):
            asked.append(train)
            source = write_n_mnist(tmp_path / f"source{train}") / ("Train" if train else "Test")
            target = tmp_path / "root" / "NMNIST"
            assert save_to == str(tmp_path / "root")
            target.mkdir(parents=True, exist_ok=True)
            source.rename(target / source.name)

    datasets = types.ModuleType("tonic.datasets")
    datasets.NMNIST = NMNIST
    monkeypatch.setitem(sys.modules, "tonic", types.ModuleType("tonic"))
    monkeypatch.setitem(sys.modules, "tonic.datasets", datasets)
    assert len(data.load("n-mnist", tmp_path / "root").train_labels) == 20
    assert asked == [True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"downsample": 3}, "downsample must divide the sides of n-mnist's sensor, 34x34 pixels; got 3"),
        ({"downsample": 0}, "downsample must be an integer >= 1, got 0"),
        ({"steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"bin_ms": 0.0}, r"bin_ms must be > 0, got 0\.0"),
        ({"bin_ms": float("nan")}, "bin_ms must be a finite number, got nan"),
        ({"augment": True}, "augment must be False for n-mnist"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, **options)


def test_steps_of_another_binning_are_refused(tmp_path):
    write_n_mnist(tmp_path)
    images = load(tmp_path, steps=5)
    values = images.test_batch(0, 2)[0]
    assert images.present(values, 5) is values
    with pytest.raises(ValueError, match="steps must be 5, into which n-mnist was binned, got 6"):
        images.present(values, 6)
