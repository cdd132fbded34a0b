"""Batches on a device are those of the CPU, to the bit."""

import pytest
import torch
from event_files import write_n_mnist

from tssl_triton import data
from tssl_triton.data import ImageSet
from tssl_triton.data.crops import crop, draw_crops
from tssl_triton.training import Trainer, resolve

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("downsample", [1, 2])
def test_recordings(tmp_path, downsample):
    write_n_mnist(tmp_path)
    here = data.load("n-mnist", tmp_path, download=False, downsample=downsample)
    there = here.to("cuda")
    indices = torch.tensor([3, 19, 0, 3])
    for ours, theirs in zip(here.train_batch(indices), there.train_batch(indices), strict=True):
        assert theirs.device.type == "cuda"
        assert torch.equal(ours, theirs.cpu())


def test_crops():
    images = torch.randint(0, 256, (50, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    crops = draw_crops(50, 0, 0)
    assert torch.equal(crop(images.cuda(), crops.cuda()).cpu(), crop(images, crops))


@pytest.mark.parametrize("prefetch", [False, True])
def test_training_on_recordings(tmp_path, prefetch):
    write_n_mnist(tmp_path, train=60)
    settings = {"dataset": "n-mnist", "arch": "4C5-P2-10", "padding": "0", "batch_size": 6, "epochs": 2}
    images = data.load("n-mnist", tmp_path, download=False)
    trainer = Trainer(resolve({**settings, "device": "cuda"}, {}), images, prefetch)
    order = []
    original = trainer.learn
    trainer.learn = lambda values, labels, **rest: (order.append(labels.cpu()), original(values, labels, **rest))
    assert trainer.train_epoch()
    expected = images.train_labels[data.epoch_order(60, 0, 0)]
    assert torch.equal(torch.cat(order), expected)


def test_augmented_images_live_on_the_device():
    pixels = torch.zeros(20, 3, 32, 32, dtype=torch.uint8)
    labels = torch.arange(20) % 10
    images = ImageSet("drawn", pixels, labels, pixels, labels, 10, 0.0, 1.0, augment=True).to("cuda")
    assert not images.costly
    values, _ = images.training(0, 0)(torch.arange(5, device="cuda"))
    assert values.device.type == "cuda"
