"""Results of trials as text tables, as plain containers for JSON, and as curves.

Accuracies are computed as shares in [0, 1], and shown and written as per cent.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tssl_triton.training import MAY_CHANGE, TrainConfig, label_epochs

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


def draw_accuracies(axes: Any, results: Sequence[TrialResult], **line: Any) -> list[float]:
    """Draw test accuracy over epochs: mean over trials as a line, their range as a band.

    Returns:
        Accuracies to fit the y axis to: without the first tenth of the epochs, where accuracy rises steeply.
    """
    curves = [[100 * accuracy for accuracy in result.accuracies] for result in results]
    at_epoch = [[curve[k] for curve in curves if len(curve) > k] for k in range(max(map(len, curves)))]
    epochs = range(1, len(at_epoch) + 1)
    means = [statistics.fmean(values) for values in at_epoch]
    (drawn,) = axes.plot(epochs, means, "o-" if len(epochs) <= 10 else "-", markersize=3, **line)
    if len(curves) > 1:
        lowest, highest = [min(values) for values in at_epoch], [max(values) for values in at_epoch]
        axes.fill_between(epochs, lowest, highest, color=drawn.get_color(), alpha=0.2, lw=0, label="range")
    label_epochs(axes)
    axes.set_ylabel("test accuracy (%)")
    axes.grid(alpha=0.3)
    return [accuracy for values in at_epoch[len(at_epoch) // 10 :] for accuracy in values]


def fit_accuracies(axes: Any, accuracies: Sequence[float]) -> None:
    """Set the limits of the y axis to the range of ``accuracies``, with a margin."""
    margin = 0.08 * max(max(accuracies) - min(accuracies), 0.1)
    axes.set_ylim(min(accuracies) - margin, max(accuracies) + margin)
