"""How results of trials are written down: tables as text, and the same numbers as plain containers for JSON.

Shares are in [0, 1] wherever they are computed and per cent wherever they are shown or written.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tssl_triton.training.config import MAY_CHANGE, TrainConfig

from .trials import Summary, TrialResult


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table whose columns are aligned as text; the first row is its heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

    return [line(rows[0]), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows[1:])]


def per_cent(share: float | None) -> str:
    """A share as per cent with two digits, ``-`` where there is none."""
    return "-" if share is None else f"{100 * share:.2f}"


def spread(mean: float, std: float | None) -> str:
    """Mean and standard deviation of shares, as per cent; a single trial has no deviation."""
    return per_cent(mean) + (f" ± {100 * std:.2f}" if std is not None else "")


def times_100(share: float | None) -> float | None:
    """A share as per cent."""
    return None if share is None else 100 * share


def settings_as_dict(config: TrainConfig) -> dict[str, Any]:
    """What is computed, not where and how; the seed is each trial's own."""
    kept = {name: value for name, value in dataclasses.asdict(config).items() if name not in MAY_CHANGE | {"seed"}}
    return {**kept, "epochs": config.epochs}


def trial_as_dict(result: TrialResult, out: Path) -> dict[str, Any]:
    """One trial's numbers; its folder is relative to ``out``."""
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
    """Mean, standard deviation and best of trials, of their best epochs and of their last ones."""
    if summary is None:
        return dict.fromkeys(("mean", "std", "best", "last_mean", "last_std"))
    return {
        "mean": 100 * summary.mean,
        "std": times_100(summary.std),
        "best": 100 * summary.best,
        "last_mean": 100 * summary.last_mean,
        "last_std": times_100(summary.last_std),
    }
