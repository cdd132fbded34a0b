"""``python -m bench loading``: does a training step wait for its data?

For each data set, with its network and settings of ``tssl train``: milliseconds to load a batch, milliseconds of a
training step on a loaded batch, and the share of a step that the training loop waits for its batch, loaded in place and
loaded ahead by a thread. All are medians, robust to background load. The first batch of an epoch cannot be loaded ahead
and is left out. Data sets with cheap batches have no thread. A small network (``--arch 10``) shows the share for steps
as short as on a fast device.

MNIST and Fashion-MNIST are read from ``--data-root`` if given. All other data is random, written to a temporary folder
in the published file format, with realistic image sizes and event counts. Event data is binned once, and the time per
recording is listed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import pickle
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from bench.common import options
from bench.common.tables import aligned
from bench.common.timing import machine
from tssl_triton.training import Trainer, load_data, resolve

Writer = Callable[[Path, int], contextlib.AbstractContextManager[None]]

#: Events per recording of N-MNIST, and its length in microseconds.
N_MNIST_EVENTS, N_MNIST_TIME = 4_200, 310_000
#: Events and milliseconds of a DVS-Gesture recording, as cut by tonic: 300 steps of 5 ms.
GESTURE_EVENTS, GESTURE_TIME = 90_000, 1_500

REAL = ("mnist", "fashion-mnist")
WARM_UP = 2


@dataclass(frozen=True)
class Row:
    """Loading of one data set.

    Args:
        name: data set.
        real: whether it is the published data.
        batch: samples per batch.
        load: median milliseconds to load a batch.
        step: median milliseconds of a training step on a loaded batch.
        waits_in_place: share of a step that waits for its batch, loaded in place.
        waits_ahead: the same, loaded ahead; None for data sets without loading ahead.
        prepare: milliseconds to read and bin a recording, once; None for images.
    """

    name: str
    real: bool
    batch: int
    load: float
    step: float
    waits_in_place: float
    waits_ahead: float | None
    prepare: float | None


def measure(name: str, batches: int, root: str | None = None, **settings: Any) -> Row:
    """One row.

    Args:
        name: data set.
        batches: timed training steps, for each of the three measurements.
        root: folder of the published data; None for random data.
        settings: of training, in addition to the data set's.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        config = resolve({"dataset": name, "download": False, "data_root": root or folder, **settings}, {})
        if root is None:
            samples = config.batch_size * (batches + WARM_UP + 1)
            stack.enter_context(SETS[name](Path(folder), samples))
        start = time.perf_counter()
        images = load_data(config)
        seconds = time.perf_counter() - start
        recordings = len(images.train_labels) + len(images.test_labels)
        trainer = Trainer(config, images, prefetch=False)
        load, step = _load_and_step(trainer, batches)
        in_place = _waiting_share(trainer, batches)
        ahead = None
        if trainer.images.costly:
            trainer.prefetch = True
            ahead = _waiting_share(trainer, batches)
        prepare = 1e3 * seconds / recordings if images.noun == "recordings" else None
        return Row(name, root is not None, config.batch_size, load, step, in_place, ahead, prepare)


def _load_and_step(trainer: Trainer, batches: int) -> tuple[float, float]:
    """Median milliseconds to load a batch, and to train on one."""
    trainer.network.train()
    loading, learning = [], []
    with trainer.training_batches() as source:
        for number in range(batches + WARM_UP):
            times = [time.perf_counter()]
            batch = next(source)
            _finish(trainer)
            times.append(time.perf_counter())
            trainer.learn(*batch)
            _finish(trainer)
            times.append(time.perf_counter())
            if number >= WARM_UP:
                loading.append(times[1] - times[0])
                learning.append(times[2] - times[1])
    return 1e3 * statistics.median(loading), 1e3 * statistics.median(learning)


def _waiting_share(trainer: Trainer, batches: int) -> float:
    """Median wait for a batch over the median step of the training loop."""
    trainer.batch = 0
    waits, steps = [], []
    with trainer.training_batches() as source:
        trainer.learn(*next(source))
        _finish(trainer)
        for _ in range(batches):
            asked = time.perf_counter()
            batch = next(source)
            waits.append(time.perf_counter() - asked)
            trainer.learn(*batch)
            _finish(trainer)
            steps.append(time.perf_counter() - asked)
    return statistics.median(waits) / statistics.median(steps)


def _finish(trainer: Trainer) -> None:
    if trainer.device.type == "cuda":
        torch.cuda.synchronize(trainer.device)


def table(rows: list[Row]) -> str:
    """The rows as aligned columns."""
    heads = ["data set", "content", "batch", "load ms", "step ms", "waits, in place", "waits, ahead", "binned once, ms"]
    cells = [
        [
            row.name, "published" if row.real else "random", row.batch, f"{row.load:.2f}", f"{row.step:.1f}",
            f"{row.waits_in_place:.2%}", "" if row.waits_ahead is None else f"{row.waits_ahead:.2%}",
            "" if row.prepare is None else f"{row.prepare:.2f}",
        ]
        for row in rows
    ]  # fmt: skip
    return aligned(heads, cells, left=2)


def idx(folder: str) -> Writer:
    """Writes ``root/<folder>/raw/*-ubyte``, in the format of MNIST and Fashion-MNIST."""

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
    """Writes ``root/cifar-10-batches-py``, whose checksums torchvision accepts inside the context."""
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
            # Events are concentrated on part of the sensor, as of limbs in front of a still background.
            x, y = np.clip(np.rint(rng.normal(64, 18, (2, GESTURE_EVENTS))), 0, 127)
            time = np.sort(rng.integers(0, GESTURE_TIME, GESTURE_EVENTS))
            columns = x, y, rng.integers(0, 2, GESTURE_EVENTS), time
            np.save(folder / f"{label}.npy", np.stack(columns, axis=1).astype(np.int32))
    yield


#: How to write each data set.
SETS: dict[str, Writer] = {
    "mnist": idx("MNIST"),
    "fashion-mnist": idx("FashionMNIST"),
    "cifar10": cifar10,
    "n-mnist": n_mnist,
    "dvs-gesture": dvs_gesture,
}


def run(arguments: argparse.Namespace) -> None:
    print(machine())
    rows = []
    for name in arguments.sets:
        root = arguments.data_root if name in REAL else None
        batches = arguments.batches or (6 if name == "dvs-gesture" else 30)
        network = {} if arguments.arch is None else {"arch": arguments.arch, "padding": "0"}
        rows.append(measure(name, batches, root, device=arguments.device, **network))
    print(table(rows))


def add_to(commands: Any) -> None:
    parser = commands.add_parser("loading", help=__doc__.splitlines()[0], description=__doc__)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS, metavar="NAME")
    parser.add_argument("--data-root", metavar="DIR", help="folder with MNIST and Fashion-MNIST (default: random data)")
    parser.add_argument("--batches", type=options.count, help="timed training steps (default: 30; dvs-gesture: 6)")
    parser.add_argument("--arch", help="network, without padding, for all data sets (default: each data set's own)")
    parser.add_argument("--device", default="auto", help="as in tssl train")
    parser.set_defaults(run=run)
