"""A small CIFAR-10 in torchvision's layout: pickled batches, with torchvision's checksums patched."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np


def write_cifar10(root: Path, monkeypatch, per_batch: int = 12, seed: int = 0) -> tuple[np.ndarray, list[int]]:
    """Write the set to ``root``; returns its training images ``(N, 3, 32, 32)`` and labels, in order."""
    from torchvision.datasets import CIFAR10

    rng = np.random.default_rng(seed)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images, labels, sums = [], [], {}
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        # As published: a row is 1,024 red bytes, then green, then blue.
        pixels = rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8)
        classes = [int(label) for label in rng.integers(0, 10, per_batch)]
        entry = {"batch_label": name, "labels": classes, "data": pixels, "filenames": []}
        sums[name] = _write(folder / name, entry)
        if name != "test_batch":
            images.append(pixels)
            labels += classes
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    meta_sum = _write(folder / "batches.meta", {"label_names": names, "num_vis": 3072})
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in sums if name != "test_batch"])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta_sum})
    return np.concatenate(images).reshape(-1, 3, 32, 32), labels


def _write(path: Path, entry: dict) -> str:
    raw = pickle.dumps(entry, protocol=2)
    path.write_bytes(raw)
    return hashlib.md5(raw).hexdigest()
