"""What `tssl reproduce` writes: tables as text, the same as plain containers, and learning curves.

Accuracies are per cent of the test set here, as in the paper. A trial's result is that of its best epoch; mean and
sample standard deviation are over trials.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tssl_triton._extras import require
from tssl_triton.training.checkpoint import write_atomically
from tssl_triton.training.config import TrainConfig
from tssl_triton.training.recipes import Paper, Recipe

from .results import aligned, per_cent, settings_as_dict, spread, summary_as_dict, trial_as_dict
from .trials import Summary, TrialResult

#: Trials of which the paper gives mean and deviation.
PAPER_TRIALS = 5


@dataclass(frozen=True)
class Row:
    """A row of a table: a recipe, and what its trials gave.

    Args:
        recipe: the recipe.
        config: its settings as they are trained.
        trials: number of trials that there are to be.
        summary: of the trials with at least one epoch; None if there are none.
        errors: why trials failed, each reason once.
    """

    recipe: Recipe
    config: TrainConfig
    trials: int
    summary: Summary | None
    errors: tuple[str, ...] = ()

    @property
    def results(self) -> tuple[TrialResult, ...]:
        """One per trial with at least one epoch."""
        return () if self.summary is None else self.summary.results

    @property
    def remarks(self) -> list[str]:
        """In what the numbers are not what was asked for, or not what the paper's are."""
        remarks = list(self.errors)
        epochs = 0 if self.summary is None else self.summary.epochs
        complete = sum(result.complete for result in self.results)
        if complete < self.trials:
            remarks.append(f"{complete} of {self.trials} trials are complete")
        paper = self.recipe.paper
        if paper is not None and self.results:
            if epochs < paper.epochs:
                remarks.append(f"{_counted(epochs, 'epoch')}, the paper has {paper.epochs}")
            counted = 0 if self.summary is None else len(self.summary.counted)
            if paper.mean is not None and counted < PAPER_TRIALS:
                remarks.append(f"{_counted(counted, 'trial')}, the paper has {PAPER_TRIALS}")
        if paper is not None and paper.note:
            remarks.append(f"paper: {paper.note}")
        return remarks


def markdown(title: str, rows: Sequence[Row], comparisons: Sequence[dict[str, Any]]) -> str:
    """The whole report but the picture, as Markdown that also reads well as it is."""
    blocks = [[f"# {title}"], aligned(_results(rows))]
    remarks = [f"* {row.recipe.name}: {remark}" for row in rows for remark in row.remarks]
    if remarks:
        blocks.append(remarks)
    blocks.append(
        [
            "Accuracies are per cent of the test set. Mean and sample standard deviation are over trials: of each",
            "one's best epoch, and of its last epoch.",
        ]
    )
    trials = [["trial", "epochs", "best", "at epoch", "last"]]
    for row in rows:
        for result in row.results:
            epochs = f"{len(result.history)}" if result.complete else f"{len(result.history)} of {row.config.epochs}"
            trials.append(
                [str(result.trial), epochs, per_cent(result.best), str(result.best_epoch), per_cent(result.last)]
            )
    if len(trials) > 1:
        blocks.append(aligned(trials))
    if comparisons:
        heading = ["other methods in the paper's table", "network", "steps", "mean", "best"]
        printed = [[_or_dash(row.get(key)) for key in ("method", "network", "steps")] for row in comparisons]
        figures = [[_two_digits(row.get(key)) for key in ("mean", "best")] for row in comparisons]
        blocks.append(aligned([heading, *(a + b for a, b in zip(printed, figures, strict=True))]))
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def as_dict(title: str, rows: Sequence[Row], comparisons: Sequence[dict[str, Any]], out: Path) -> dict[str, Any]:
    """The report as plain containers, for JSON; folders are relative to ``out``."""

    def plain(row: Row) -> dict[str, Any]:
        return {
            "recipe": row.recipe.name,
            "settings": settings_as_dict(row.config),
            "trials_asked_for": row.trials,
            "trials": [trial_as_dict(result, out) for result in row.results],
            **summary_as_dict(row.summary),
            "paper": None if row.recipe.paper is None else dataclasses.asdict(row.recipe.paper),
            "remarks": row.remarks,
        }

    return {"title": title, "rows": [plain(row) for row in rows], "other_methods": list(comparisons)}


def draw_curves(path: Path, title: str, rows: Sequence[Row]) -> None:
    """Draw test accuracy over epochs into the PNG file ``path``, atomically; nothing if no epoch is done.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    rows = [row for row in rows if row.results]
    if not rows:
        return
    figure_module = require("matplotlib.figure", "train", "the learning curves")
    ticker = require("matplotlib.ticker", "train", "the learning curves")
    figure = figure_module.Figure(figsize=(6 * len(rows), 4), layout="constrained")
    figure.suptitle(title)
    for axes, row in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows, strict=True):
        _draw_row(axes, row)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_ylabel("test accuracy (%)")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize="small")
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))


def _draw_row(axes: Any, row: Row) -> None:
    """One recipe: the mean over trials as long as all have that epoch, the band from least to most, the paper."""
    curves = [[100 * accuracy for accuracy in result.accuracies] for result in row.results]
    longest = max(map(len, curves))
    epochs = range(1, longest + 1)
    at_epoch = [[curve[k] for curve in curves if len(curve) > k] for k in range(longest)]
    lowest, highest = [min(values) for values in at_epoch], [max(values) for values in at_epoch]
    means = [statistics.fmean(values) for values in at_epoch]
    if len(curves) > 1:
        axes.fill_between(epochs, lowest, highest, alpha=0.3, lw=0, label="least to most")
    summary = row.summary
    assert summary is not None
    best = (
        f"mean of best epochs {100 * summary.mean:.2f}"
        if len(summary.counted) > 1
        else f"best {100 * summary.best:.2f}"
    )
    trials = ("" if len(curves) == 1 else "mean of ") + _counted(len(curves), "trial")
    axes.plot(epochs, means, "o-" if longest <= 10 else "-", markersize=3, label=f"{trials}; {best}")
    # The first epochs rise steeply; the axis begins where a tenth of them is over, so that the rest can be told apart.
    floor, ceiling = min(lowest[longest // 10 :]), max(highest)
    paper = row.recipe.paper
    if paper is not None:
        value, what = (paper.best, "best") if paper.mean is None else (paper.mean, "mean")
        axes.axhline(value, ls="--", color="tab:red", lw=1, label=f"paper, {what} {value:.2f}")
        floor, ceiling = min(floor, value), max(ceiling, value)
    margin = 0.08 * max(ceiling - floor, 0.1)
    axes.set_ylim(floor - margin, ceiling + margin)
    axes.set_title(f"{row.recipe.name}: {row.config.arch}", fontsize="medium")


def _results(rows: Sequence[Row]) -> list[list[str]]:
    heading = ["recipe", "network", "T", "epochs", "trials", "mean ± std", "best", "last epoch"]
    table = [[*heading, "paper: epochs", "mean ± std", "best"]]
    for row in rows:
        ours = [row.recipe.name, row.config.arch, str(row.config.steps)]
        summary = row.summary
        if summary is None:
            ours += ["0", "0", "-", "-", "-"]
        else:
            ours += [str(summary.epochs), str(len(summary.counted)), spread(summary.mean, summary.std)]
            ours += [per_cent(summary.best), spread(summary.last_mean, summary.last_std)]
        table.append(ours + _printed(row.recipe.paper))
    return table


def _printed(paper: Paper | None) -> list[str]:
    if paper is None:
        return ["-", "-", "-"]
    mean = _two_digits(paper.mean) + (f" ± {paper.std:.2f}" if paper.std is not None else "")
    return [str(paper.epochs), mean, _two_digits(paper.best)]


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _two_digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)
