"""Data sets in the files and the formats in which they are published, with drawn content, for measuring their loading.

What matters for that is right: sizes of images, numbers of events and their spread over time. Nothing can be learnt
from them.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np

Writer = Callable[[Path, int], contextlib.AbstractContextManager[None]]

#: Events of a recording of N-MNIST, and its length in microseconds.
N_MNIST_EVENTS, N_MNIST_TIME = 4_200, 310_000
#: Events and milliseconds of the part of a DVS-Gesture recording that 300 steps of 5 ms see, as tonic cuts it.
GESTURE_EVENTS, GESTURE_TIME = 90_000, 1_500


def idx(folder: str) -> Writer:
    """Writes ``root/<folder>/raw/*-ubyte``, as MNIST and Fashion-MNIST come."""

    @contextlib.contextmanager
    def write(root: Path, train: int) -> Iterator[None]:
        rng = np.random.default_rng(0)
        raw = root / folder / "raw"
        raw.mkdir(parents=True)
        for prefix, count in (("train", train), ("t10k", 10)):
            for kind, array in (
                ("images-idx3", rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)),
                ("labels-idx1", rng.integers(0, 10, count, dtype=np.uint8)),
            ):
                header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
                (raw / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())
        yield

    return write


@contextlib.contextmanager
def cifar10(root: Path, train: int) -> Iterator[None]:
    """Writes ``root/cifar-10-batches-py``; inside the context torchvision takes these files for the published ones."""
    from torchvision.datasets import CIFAR10

    rng = np.random.default_rng(0)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def write(name: str, entry: dict[str, object]) -> str:
        raw = pickle.dumps(entry, protocol=2)
        (folder / name).write_bytes(raw)
        return hashlib.md5(raw).hexdigest()

    def batch(name: str, count: int) -> list[str]:
        pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        return [name, write(name, {"data": pixels, "labels": rng.integers(0, 10, count).tolist()})]

    train_list = [batch(f"data_batch_{number}", train // 5) for number in range(1, 6)]
    test_list = [batch("test_batch", 10)]
    meta = {"filename": "batches.meta", "key": "label_names", "md5": ""}
    meta["md5"] = write("batches.meta", {"label_names": [str(label) for label in range(10)]})
    with mock.patch.multiple(CIFAR10, train_list=train_list, test_list=test_list, meta=meta):
        yield


@contextlib.contextmanager
def n_mnist(root: Path, train: int) -> Iterator[None]:
    """Writes ``root/NMNIST/Train/<label>/*.bin`` and ``Test``."""
    rng = np.random.default_rng(0)
    for half, count in (("Train", train), ("Test", 10)):
        for label in range(10):
            (root / "NMNIST" / half / str(label)).mkdir(parents=True)
        for number in range(count):
            events = np.empty((N_MNIST_EVENTS, 5), dtype=np.uint8)
            events[:, :2] = rng.integers(0, 34, (N_MNIST_EVENTS, 2))
            words = np.sort(rng.integers(0, N_MNIST_TIME, N_MNIST_EVENTS)) | rng.integers(0, 2, N_MNIST_EVENTS) << 23
            events[:, 2:] = words[:, None] >> (16, 8, 0) & 0xFF
            (root / "NMNIST" / half / str(number % 10) / f"{number:05d}.bin").write_bytes(events.tobytes())
    yield


@contextlib.contextmanager
def dvs_gesture(root: Path, train: int) -> Iterator[None]:
    """Writes ``root/DVSGesture/ibmGestureTrain/<user>_led/<class>.npy`` and ``ibmGestureTest``."""
    rng = np.random.default_rng(0)
    for half, count in (("Train", train), ("Test", 11)):
        for number in range(count):
            user, label = divmod(number, 11)
            folder = root / "DVSGesture" / f"ibmGesture{half}" / f"user{user:02d}_led"
            folder.mkdir(parents=True, exist_ok=True)
            # Limbs in front of a still background: the events crowd on a part of the sensor.
            x, y = np.clip(np.rint(rng.normal(64, 18, (2, GESTURE_EVENTS))), 0, 127)
            time = np.sort(rng.integers(0, GESTURE_TIME, GESTURE_EVENTS))
            columns = x, y, rng.integers(0, 2, GESTURE_EVENTS), time
            np.save(folder / f"{label}.npy", np.stack(columns, axis=1).astype(np.int32))
    yield
