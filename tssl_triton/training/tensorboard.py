"""Metrics of a run as scalars that TensorBoard draws, one step per epoch.

The metrics in the checkpoint are the truth, as they are for ``metrics.jsonl``. Whenever a training begins or is taken
up again, event files that hold its first epochs, each once and in order, are kept, and what they lack is added in a new
file. If they hold anything else, as they may where a run was killed while it logged, they give way to a file with all
epochs. So no epoch is lost and none is there twice.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tssl_triton._extras import require

PURPOSE = "logging for TensorBoard"

#: Tags of the metrics of an epoch; firing rates have one per layer, ``firing_rate/LAYER``.
TAGS = {
    "loss": "loss/train",
    "train_accuracy": "accuracy/train",
    "test_accuracy": "accuracy/test",
    "lr": "learning_rate",
    "gradient_norm": "gradient_norm",
    "images_per_second": "images_per_second",
}


def writer() -> Any:
    """The class ``SummaryWriter`` of PyTorch.

    Raises:
        MissingExtraError: if tensorboard is not installed.
    """
    require("tensorboard", "tensorboard", PURPOSE)  # PyTorch's module is there without it, and fails
    return require("torch.utils.tensorboard", "tensorboard", PURPOSE).SummaryWriter


def _wait_for_a_later_name(former: Sequence[Path]) -> None:
    """Let the second end in which the last of the ``former`` files was begun.

    TensorBoard reads files in the order of their names. These begin with the second; what follows puts 10 before 9.
    """
    begun = max((int(path.name.split(".")[3]) for path in former), default=0)
    if begun == int(time.time()):
        time.sleep(begun + 1 - time.time())


@contextlib.contextmanager
def scalar_log(
    folder: Path, history: Sequence[dict[str, Any]], layers: Sequence[str]
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What logs the metrics of one more epoch, those in ``history`` being logged already.

    Args:
        folder: of event files, which belong to this log alone.
        history: metrics of the complete epochs.
        layers: names of the layers whose firing rates the metrics hold.

    Raises:
        MissingExtraError: if tensorboard is not installed.
    """
    summary_writer = writer()
    tags = [*TAGS.values(), *(f"firing_rate/{layer.replace(' ', '_')}" for layer in layers)]
    former = sorted(folder.glob("events.out.tfevents.*"))
    held = _scalars(former)
    done = len(held) // len(tags)
    sound = done <= len(history) and held == [(tag, epoch + 1) for epoch in range(done) for tag in tags]
    missing = history[done if sound else 0 :]
    _wait_for_a_later_name(former)
    events = summary_writer(str(folder), purge_step=None if sound else 0)

    def log(metrics: dict[str, Any], at: float | None = None) -> None:
        values = [*(metrics[name] for name in TAGS), *metrics["firing_rates"]]
        for tag, value in zip(tags, values, strict=True):
            events.add_scalar(tag, value, metrics["epoch"], walltime=at)
        events.flush()

    try:
        # Epochs that are logged late get times that are as far apart as they took, for the axis of relative time.
        at = time.time() - sum(metrics["seconds"] for metrics in missing)
        for metrics in missing:
            at += metrics["seconds"]
            log(metrics, at)
        if not sound:
            for path in former:
                path.unlink()
        yield log
    finally:
        events.close()


def _scalars(paths: Sequence[Path]) -> list[tuple[str, int]]:
    """Tag and step of every scalar in event files, in their order; a record that breaks off ends its file."""
    loader = require("tensorboard.backend.event_processing.event_file_loader", "tensorboard", PURPOSE)
    return [
        (value.tag, event.step)
        for path in paths
        for event in loader.EventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]
