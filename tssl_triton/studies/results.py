"""Results of trials as text tables and as plain containers for JSON.

Accuracies are computed as shares in [0, 1], and shown and written as per cent.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tssl_triton.training import MAY_CHANGE, TrainConfig

from .trials import Summary, TrialResult


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table with padded cells; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

    return [line(rows[0]), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows[1:])]


def per_cent(share: float | None) -> str:
    """A share as per cent with two digits, ``-`` for None."""
    return "-" if share is None else f"{100 * share:.2f}"


def spread(mean: float, std: float | None) -> str:
    """Mean and standard deviation of shares, as per cent; a single trial has no deviation."""
    return per_cent(mean) + (f" ± {100 * std:.2f}" if std is not None else "")


def times_100(share: float | None) -> float | None:
    """A share as per cent."""
    return None if share is None else 100 * share


def settings_as_dict(config: TrainConfig) -> dict[str, Any]:
    """The settings that affect the result, except the seed, which belongs to each trial."""
    kept = {name: value for name, value in dataclasses.asdict(config).items() if name not in MAY_CHANGE | {"seed"}}
    return {**kept, "epochs": config.epochs}


def trial_as_dict(result: TrialResult, out: Path) -> dict[str, Any]:
    """The numbers of one trial; its folder is relative to ``out``."""
    return {
        "seed": result.trial.config.seed,
        "folder": Path(os.path.relpath(result.folder, out)).as_posix(),
        "complete": result.complete,
        "epochs": len(result.history),
        "best": 100 * result.best,
        "best_epoch": result.best_epoch,
        "last": 100 * result.last,
        "seconds_per_epoch": statistics.fmean(metrics["seconds"] for metrics in result.history),
        "test_accuracy": [100 * accuracy for accuracy in result.accuracies],
    }


def summary_as_dict(summary: Summary | None) -> dict[str, float | None]:
    """Mean, standard deviation and best of the trials' best epochs, mean and standard deviation of their last."""
    names = ("mean", "std", "best", "last_mean", "last_std")
    return {name: None if summary is None else times_100(getattr(summary, name)) for name in names}
