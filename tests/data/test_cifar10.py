"""CIFAR-10: the contents of torchvision's batches, and crops of a batch against crops of single images."""

import benches  # noqa: F401 - finds bench
import numpy as np
import pytest
import torch
from cifar_files import write_cifar10

from bench.common.tracing import DEVICE, record
from tssl_triton import data
from tssl_triton.data import cifar10
from tssl_triton.data.crops import crop, draw_crops


@pytest.fixture
def written(tmp_path, monkeypatch):
    images, labels = write_cifar10(tmp_path, monkeypatch)
    return tmp_path, torch.from_numpy(images), labels


def test_batches_are_read(written):
    root, pixels, labels = written
    images = data.load("cifar10", root, download=False)
    assert (images.name, images.in_shape, images.classes) == ("cifar10", (3, 32, 32), 10)
    assert torch.equal(images.train_images, pixels)
    assert images.train_labels.tolist() == labels
    assert len(images.test_images) == len(images.test_labels) == 12
    assert not images.augment
    assert not images.costly


def test_normalisation_is_that_of_torchvision(written):
    from torchvision.datasets import CIFAR10
    from torchvision.transforms import Compose, Normalize, ToTensor

    root, *_ = written
    theirs = CIFAR10(root, transform=Compose([ToTensor(), Normalize(cifar10.MEAN, cifar10.STD)]))
    ours, labels = data.load("cifar10", root, download=False).train_batch(torch.arange(60))
    for index in (0, 13, 59):
        image, label = theirs[index]
        torch.testing.assert_close(ours[index], image, rtol=0, atol=1e-5)
        assert labels[index] == label


def test_crops_equal_those_of_single_images():
    """Compare with NumPy, one image at a time: pad with 4 zeros, crop, mirror."""
    images = torch.randint(0, 256, (200, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    crops = draw_crops(200, seed=1, epoch=2)
    got = crop(images, crops)
    assert got.dtype == torch.uint8
    for image, (top, left, mirrored), one in zip(images.numpy(), crops.tolist(), got.numpy(), strict=True):
        window = np.pad(image, ((0, 0), (4, 4), (4, 4)))[:, top : top + 32, left : left + 32]
        assert np.array_equal(one, window[:, :, ::-1] if mirrored else window)


def test_crops_equal_torchvision_s():
    from torchvision.transforms.functional import crop as their_crop
    from torchvision.transforms.functional import hflip, pad

    images = torch.randint(0, 256, (30, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(6))
    crops = draw_crops(30, seed=0, epoch=0)
    for image, (top, left, mirrored), one in zip(images, crops.tolist(), crop(images, crops), strict=True):
        window = their_crop(pad(image, [4]), top, left, 32, 32)
        assert torch.equal(one, hflip(window) if mirrored else window)


def test_all_windows_and_mirror_images_are_drawn_alike():
    crops = draw_crops(81_000, seed=0, epoch=0)
    assert crops.min(0).values.tolist() == [0, 0, 0]
    assert crops.max(0).values.tolist() == [8, 8, 1]
    windows = torch.bincount(9 * crops[:, 0] + crops[:, 1], minlength=81)
    assert windows.min() > 850  # 1,000 of each are expected, with a standard deviation of 32
    assert windows.max() < 1150
    assert 0.49 < crops[:, 2].double().mean() < 0.51


def test_crops_depend_on_seed_and_epoch_alone():
    first = draw_crops(50, seed=3, epoch=2)
    torch.manual_seed(99)
    torch.rand(10)
    assert torch.equal(first, draw_crops(50, seed=3, epoch=2))
    assert not torch.equal(first, draw_crops(50, seed=3, epoch=3))
    assert not torch.equal(first, draw_crops(50, seed=4, epoch=2))


def test_a_batch_does_not_depend_on_the_batches_around_it(written):
    images = data.load("cifar10", written[0], download=False, augment=True)
    assert images.costly
    make = images.training(seed=0, epoch=1)
    whole, labels = make(torch.arange(60))
    some = torch.tensor([17, 3, 59])
    parts, their_labels = images.training(seed=0, epoch=1)(some)
    assert torch.equal(parts, whole[some])
    assert torch.equal(their_labels, labels[some])
    assert not torch.equal(images.training(seed=0, epoch=2)(some)[0], parts)


def test_only_training_is_augmented(written):
    plain = data.load("cifar10", written[0], download=False)
    images = data.load("cifar10", written[0], download=False, augment=True)
    everything = torch.arange(60)
    assert torch.equal(images.train_batch(everything)[0], plain.train_batch(everything)[0])
    assert torch.equal(images.test_batch(0, 12)[0], plain.test_batch(0, 12)[0])
    assert torch.equal(plain.training(0, 0)(everything)[0], plain.train_batch(everything)[0])
    assert not torch.equal(images.training(0, 0)(everything)[0], plain.train_batch(everything)[0])


def test_margins_are_black_before_they_are_normalised(written):
    images = data.load("cifar10", written[0], download=False, augment=True)
    crops = draw_crops(60, seed=0, epoch=0)
    top = int((crops[:, 0] == 0).nonzero()[0])
    values = images.training(0, 0)(torch.tensor([top]))[0]
    black = -torch.tensor(cifar10.MEAN) / torch.tensor(cifar10.STD)
    torch.testing.assert_close(values[0, :, 0, 0], black)


def test_missing_and_damaged_files(written):
    root, *_ = written
    folder = root / "cifar-10-batches-py"
    path = folder / "data_batch_3"
    raw = path.read_bytes()
    path.write_bytes(raw[:-1])
    with pytest.raises(data.DataError, match=f"cifar10 cannot be read, the files in {folder} are damaged: "):
        data.load("cifar10", root, download=False)
    path.unlink()
    with pytest.raises(data.DataError, match=f"cifar10 not found: looked for data_batch_3 in {folder}; allow the"):
        data.load("cifar10", root, download=False)


def test_cutting_a_batch_makes_no_gpu_wait(written):
    images = data.load("cifar10", written[0], download=False, augment=True).to(DEVICE)
    assert not images.costly
    make = images.training(seed=0, epoch=0)
    indices = torch.empty(7, dtype=torch.int64, device=DEVICE)
    assert record(lambda: make(indices)).waits() == []
    assert make(indices)[0].shape == (7, 3, 32, 32)
