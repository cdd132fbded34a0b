"""Metrics of a run as TensorBoard scalars, one step per epoch.

The history in the checkpoint is authoritative, as it is for ``metrics.jsonl``. When a training starts or resumes, event
files that hold its first epochs, each once and in order, are kept, and missing epochs are added in a new file. Event
files with any other content, as a killed run may leave them, are replaced by one file with all epochs. So every epoch
is logged exactly once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tssl_triton._extras import require

PURPOSE = "logging for TensorBoard"

#: Tags of an epoch's metrics; each layer's firing rate has the tag ``firing_rate/LAYER``.
TAGS = {
    "loss": "loss/train",
    "train_accuracy": "accuracy/train",
    "test_accuracy": "accuracy/test",
    "lr": "learning_rate",
    "gradient_norm": "gradient_norm",
    "images_per_second": "images_per_second",
}


def writer() -> Any:
    """PyTorch's class ``SummaryWriter``.

    Raises:
        MissingExtraError: if tensorboard is not installed.
    """
    require("tensorboard", "tensorboard", PURPOSE)  # torch.utils.tensorboard exists without it, and fails later
    return require("torch.utils.tensorboard", "tensorboard", PURPOSE).SummaryWriter


def _wait_for_later_name(former: Sequence[Path]) -> None:
    """Wait until the clock has passed the second in which the last of the ``former`` files was created.

    TensorBoard reads files in the order of their names. Names start with the second; the rest sorts 10 before 9.
    """
    begun = max((int(path.name.split(".")[3]) for path in former), default=0)
    if begun == int(time.time()):
        time.sleep(begun + 1 - time.time())


@contextlib.contextmanager
def scalar_log(
    folder: Path, history: Sequence[dict[str, Any]], layers: Sequence[str]
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that logs the metrics of the next epoch; epochs in ``history`` are logged first if missing.

    Args:
        folder: of the event files; used for nothing else.
        history: metrics of the complete epochs.
        layers: names of the layers whose firing rates are in the metrics.

    Raises:
        MissingExtraError: if tensorboard is not installed.
    """
    summary_writer = writer()
    tags = [*TAGS.values(), *(f"firing_rate/{layer.replace(' ', '_')}" for layer in layers)]
    former = sorted(folder.glob("events.out.tfevents.*"))
    logged = _scalars(former)
    done = len(logged) // len(tags)
    valid = done <= len(history) and logged == [(tag, epoch + 1) for epoch in range(done) for tag in tags]
    missing = history[done if valid else 0 :]
    _wait_for_later_name(former)
    events = summary_writer(str(folder), purge_step=None if valid else 0)

    def log(metrics: dict[str, Any], at: float | None = None) -> None:
        values = [*(metrics[name] for name in TAGS), *metrics["firing_rates"]]
        for tag, value in zip(tags, values, strict=True):
            events.add_scalar(tag, value, metrics["epoch"], walltime=at)
        events.flush()

    try:
        # Times of epochs that are logged late are spaced by their durations, for TensorBoard's relative time axis.
        at = time.time() - sum(metrics["seconds"] for metrics in missing)
        for metrics in missing:
            at += metrics["seconds"]
            log(metrics, at)
        if not valid:
            for path in former:
                path.unlink()
        yield log
    finally:
        events.close()


def _scalars(paths: Sequence[Path]) -> list[tuple[str, int]]:
    """Tag and step of every scalar in event files, in order; a truncated record ends its file."""
    loader = require("tensorboard.backend.event_processing.event_file_loader", "tensorboard", PURPOSE)
    return [
        (value.tag, event.step)
        for path in paths
        for event in loader.EventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]
