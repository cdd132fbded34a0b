"""Image sets: contents, missing files, and the order of an epoch."""

import functools
import gzip
import http.server
import sys
import threading
from hashlib import md5

import pytest
import torch
from idx_files import write_idx, write_image_set

from tssl_triton import data
from tssl_triton._extras import MissingExtraError


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_digits_split_is_fixed(digits):
    assert digits.train_images.shape == (1437, 1, 8, 8)
    assert digits.test_images.shape == (360, 1, 8, 8)
    assert digits.in_shape == (1, 8, 8)
    assert digits.train_images.dtype == torch.uint8
    assert digits.train_labels.dtype == torch.int64
    # Every published number depends on this split, so it must not change.
    assert digits.train_labels[:10].tolist() == [2, 8, 2, 6, 6, 7, 1, 9, 8, 5]
    assert digits.test_labels[:10].tolist() == [7, 9, 4, 7, 0, 2, 6, 1, 3, 1]


def test_digits_split_loses_no_image(digits):
    from sklearn.datasets import load_digits

    published = load_digits()
    images = torch.cat([digits.train_images, digits.test_images]).flatten(1)
    labels = torch.cat([digits.train_labels, digits.test_labels])
    ours = {(label, bytes(image)) for label, image in zip(labels.tolist(), images.numpy(), strict=True)}
    theirs = {
        (int(label), bytes(image))
        for label, image in zip(published.target, published.data.astype("uint8"), strict=True)
    }
    assert ours == theirs
    assert len(images) == len(published.data)


def test_batches_are_normalised(digits):
    values, labels = digits.train_batch(torch.arange(1437))
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.mean(), torch.tensor(0.0), rtol=0, atol=1e-5)
    torch.testing.assert_close(values.std(correction=0), torch.tensor(1.0), rtol=0, atol=1e-5)
    torch.testing.assert_close(labels, digits.train_labels)
    some = torch.tensor([5, 1, 700])
    torch.testing.assert_close(digits.train_batch(some)[0], values[some], rtol=0, atol=0)


def test_test_batches_use_the_training_normalisation(digits):
    values, labels = digits.test_batch(10, 20)
    expected = (digits.test_images[10:20].double() - digits.mean) / digits.std
    torch.testing.assert_close(values.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(labels, digits.test_labels[10:20])


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_idx_sets_are_read(tmp_path, name, folder):
    write_image_set(tmp_path, folder, train=60, test=20)
    images = data.load(name, tmp_path, download=False)
    assert images.name == name
    assert images.in_shape == (1, 28, 28)
    assert (len(images.train_images), len(images.test_images)) == (60, 20)
    assert images.classes == 10
    pixels = images.train_images.double()
    assert images.mean == pytest.approx(pixels.mean().item())
    assert images.std == pytest.approx(pixels.std(correction=0).item())


def test_missing_files_are_named(tmp_path):
    raw = write_image_set(tmp_path)
    (raw / "t10k-labels-idx1-ubyte").unlink()
    message = rf"mnist not found: looked for t10k-labels-idx1-ubyte in {raw}"
    with pytest.raises(data.DataError, match=message):
        data.load("mnist", tmp_path, download=False)


def test_failed_download_says_what_where_and_what_to_do(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", [tmp_path.as_uri() + "/no-such-mirror/"])
    with pytest.raises(data.DataError) as caught:
        data.load("mnist", tmp_path / "data")
    message = str(caught.value)
    assert message.startswith("mnist could not be downloaded: ")
    assert f"looked for {', '.join(data.IDX_FILES)} in {tmp_path / 'data' / 'MNIST' / 'raw'}" in message
    assert "download the files on another machine" in message
    assert "\n" not in message


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder served by a local web server, and its address."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(_QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_download_fetches_what_is_missing(tmp_path, monkeypatch, mirror):
    from torchvision.datasets import MNIST

    folder, address = mirror
    raw = write_image_set(tmp_path / "source")
    resources = []
    for file in data.IDX_FILES:
        packed = gzip.compress((raw / file).read_bytes())
        (folder / f"{file}.gz").write_bytes(packed)
        resources.append((f"{file}.gz", md5(packed).hexdigest()))
    monkeypatch.setattr(MNIST, "mirrors", [address])
    monkeypatch.setattr(MNIST, "resources", resources)
    assert len(data.load("mnist", tmp_path / "data").train_images) == 60


@pytest.mark.parametrize("file", data.IDX_FILES)
@pytest.mark.parametrize("damage", ["empty", "cut", "text"])
def test_damaged_files_are_reported(tmp_path, file, damage):
    raw = write_image_set(tmp_path)
    whole = (raw / file).read_bytes()
    (raw / file).write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"not an image"}[damage])
    with pytest.raises(data.DataError, match=f"mnist cannot be read, the files in {raw} are damaged"):
        data.load("mnist", tmp_path, download=False)


def test_images_and_labels_must_match(tmp_path):
    raw = write_image_set(tmp_path)
    write_idx(raw / "train-labels-idx1-ubyte", torch.zeros(59).numpy())
    with pytest.raises(data.DataError, match=r"training images have shape \(60, 28, 28\), labels \(59,\)"):
        data.load("mnist", tmp_path, download=False)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("digits", "sklearn.datasets", "scikit-learn"), ("mnist", "torchvision.datasets", "torchvision")],
)
def test_missing_library_names_the_extra(monkeypatch, tmp_path, name, module, package):
    top = module.split(".")[0]
    for loaded in [entry for entry in sys.modules if entry == top or entry.startswith(top + ".")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setattr(sys, "meta_path", [_Missing(top), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=rf"needs {package}, .*: pip install 'tssl-triton\[data\]'"):
        data.load(name, tmp_path)


class _Missing:
    """An import finder that hides one installed package."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def test_unknown_name():
    with pytest.raises(ValueError, match=r"name must be one of 'digits', .*, 'dvs-gesture', got 'cifar'"):
        data.load("cifar")


@pytest.mark.parametrize("count", [0, 1, 100])
def test_epoch_order_is_a_permutation(count):
    assert sorted(data.epoch_order(count, 0, 0).tolist()) == list(range(count))


def test_epoch_order_depends_on_seed_and_epoch_alone():
    first = data.epoch_order(100, seed=3, epoch=2)
    torch.manual_seed(99)
    torch.rand(10)
    assert torch.equal(first, data.epoch_order(100, seed=3, epoch=2))
    assert not torch.equal(first, data.epoch_order(100, seed=3, epoch=3))
    assert not torch.equal(first, data.epoch_order(100, seed=4, epoch=2))
