"""``python -m bench loading``: does a training step wait for its data?

For each data set, with the network and settings that ``tssl train`` has for it: milliseconds to make a batch, alone;
milliseconds of a training step on a batch that is there; and, in the training loop, the share of a step that waits for
its batch, made in place and made ahead by a thread: medians, so that a busy machine is fair to all. The first batch of
an epoch has nothing to be made ahead of, and is left out. Sets whose batches cost next to nothing have no thread. A
small network (``--arch 10``) shows what loading costs a step as short as that of a fast device.

MNIST and Fashion-MNIST are read from ``--data-root`` if that is given; every other set is drawn and written to a
temporary folder in the format in which it is published (`bench/drawn_sets.py`). Event sets are binned once; what that
takes, per recording, is printed apart.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import drawn_sets
from bench.common import options
from bench.common.tables import aligned
from bench.common.timing import machine
from tssl_triton.data import DataSet
from tssl_triton.training import Trainer, load_data, resolve

#: How to draw each set.
SETS: dict[str, drawn_sets.Writer] = {
    "mnist": drawn_sets.idx("MNIST"),
    "fashion-mnist": drawn_sets.idx("FashionMNIST"),
    "cifar10": drawn_sets.cifar10,
    "n-mnist": drawn_sets.n_mnist,
    "dvs-gesture": drawn_sets.dvs_gesture,
}
REAL = ("mnist", "fashion-mnist")
WARM_UP = 2


@dataclass(frozen=True)
class Row:
    """Loading of one set.

    Args:
        name: of the set.
        real: whether it is the published one.
        batch: samples of a batch.
        load: milliseconds to make a batch, the median.
        step: milliseconds of a training step on a batch that is there, the median.
        waits_in_place: share of a step that waits for its batch, made in place.
        waits_ahead: the same with batches made ahead; None where the set does not do that.
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
        name: of the set.
        batches: training steps that are timed, in each of the three ways.
        root: folder of the published set; drawn if not given.
        settings: of the training, beside those that the data set brings.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        config = resolve({"dataset": name, "download": False, "data_root": root or folder, **settings}, {})
        if root is None:
            samples = config.batch_size * (batches + WARM_UP + 1)
            stack.enter_context(SETS[name](Path(folder), samples))
        start = time.perf_counter()
        images = load_data(config)
        took = time.perf_counter() - start
        recordings = len(images.train_labels) + len(images.test_labels)
        trainer = Trainer(config, images, prefetch=False)
        load, step = _apart(trainer, batches)
        in_place = _waiting(trainer, batches)
        ahead = None
        if trainer.images.costly:
            trainer.prefetch = True
            ahead = _waiting(trainer, batches)
        prepare = 1e3 * took / recordings if _is_binned(images) else None
        return Row(name, root is not None, config.batch_size, load, step, in_place, ahead, prepare)


def _is_binned(images: DataSet) -> bool:
    return images.noun == "recordings"


def _apart(trainer: Trainer, batches: int) -> tuple[float, float]:
    """Milliseconds to make a batch, and to learn from one."""
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


def _waiting(trainer: Trainer, batches: int) -> float:
    """Share of a step of the training loop that waits for its batch: of the median step, the median wait."""
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
    """The rows as aligned text."""
    heads = ["data set", "content", "batch", "load ms", "step ms", "waits, in place", "waits, ahead", "binned once, ms"]
    cells = [
        [
            row.name,
            "published" if row.real else "drawn",
            row.batch,
            f"{row.load:.2f}",
            f"{row.step:.1f}",
            f"{row.waits_in_place:.2%}",
            "" if row.waits_ahead is None else f"{row.waits_ahead:.2%}",
            "" if row.prepare is None else f"{row.prepare:.2f}",
        ]
        for row in rows
    ]
    return aligned(heads, cells, left=2)


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
    parser.add_argument("--data-root", metavar="DIR", help="folder with MNIST and Fashion-MNIST; drawn if not given")
    parser.add_argument(
        "--batches", type=options.count, help="training steps that are timed (default: 30, dvs-gesture 6)"
    )
    parser.add_argument("--arch", help="network, without padding, in place of each set's own: how fast may a step be?")
    parser.add_argument("--device", default="auto", help="as in tssl train")
    parser.set_defaults(run=run)
