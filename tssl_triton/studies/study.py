"""Studies: one training in several variants with equal settings, several trials of each, compared in a report.

`tssl_triton.studies.compare`, `ablate` and `reproduce` define the variants and draw the results. This module trains
them (`tssl_triton.studies.trials`: finished trials are read, unfinished ones continue) and writes to ``OUT``:

======================  ==============================================================================================
``<variant>/seed-<k>``  the run folder of each trial, as ``tssl train`` makes it
``<study>.md``          the tables and remarks
``<study>.json``        all settings, every trial's accuracy after each epoch, means and deviations, in per cent
``<study>.png``         the figure; needs matplotlib
======================  ==============================================================================================
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tssl_triton._extras import MissingExtraError
from tssl_triton._files import write_text
from tssl_triton.training import ConfigError, Display, TrainConfig, check_known

from .results import per_cent, settings_as_dict, spread, summary_as_dict, trial_as_dict
from .trials import Outcome, Summary, Trial, TrialResult, collect, repeated, run_trials


@dataclass(frozen=True)
class Variant:
    """One row of a study.

    Args:
        name: of its folder.
        text: a description, for tables.
        changes: settings that differ from the study's base.
    """

    name: str
    text: str
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """A set of trainings.

    Args:
        name: of the files it writes, relative to ``out``, without their suffix.
        title: heading of its report.
        out: folder of all results.
        base: settings of all variants, apart from their changes; trials count seeds up from its seed.
        variants: the rows.
        trials: trials of each variant, >= 1.

    Raises:
        ConfigError: if a variant's settings are unknown or invalid, or ``trials`` is.
    """

    name: str
    title: str
    out: Path
    base: TrainConfig
    variants: tuple[Variant, ...]
    trials: int

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ConfigError(f"trials must be >= 1, got {self.trials}")
        for variant in self.variants:
            self.config(variant)

    def config(self, variant: Variant) -> TrainConfig:
        """The settings of a variant."""
        for name in variant.changes:
            check_known(name, f" in variant {variant.name}")
        return dataclasses.replace(self.base, **variant.changes)

    def all_trials(self) -> list[Trial]:
        """The trials of every variant."""
        return [trial for v in self.variants for trial in repeated(v.name, self.config(v), self.trials)]

    def file(self, suffix: str) -> Path:
        """The study's file with this suffix, such as ``".md"``."""
        return self.out / f"{self.name}{suffix}"


@dataclass(frozen=True)
class Row:
    """A variant and the results of its trials.

    Args:
        variant: the variant.
        config: its settings.
        summary: of the trials with at least one epoch; None if there are none.
        errors: error messages of failed trials, without duplicates.
    """

    variant: Variant
    config: TrainConfig
    summary: Summary | None
    errors: tuple[str, ...] = ()

    @property
    def results(self) -> tuple[TrialResult, ...]:
        """One per trial with at least one epoch."""
        return () if self.summary is None else self.summary.results


def rows_of(study: Study, outcome: Outcome) -> list[Row]:
    """One row per variant, in order, with the results that exist."""
    summaries = outcome.summaries()
    rows = []
    for variant in study.variants:
        errors = dict.fromkeys(failure.error for failure in outcome.failures if failure.trial.name == variant.name)
        rows.append(Row(variant, study.config(variant), summaries.get(variant.name), tuple(errors)))
    return rows


class Report:
    """The report of a kind of study; subclasses provide tables, numbers and a figure.

    Args:
        study: the study.

    Attributes:
        pictures: files shown in the report, relative to it; `draw` writes the first.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.pictures: tuple[str, ...] = (study.file(".png").name,)
        self._draws = True

    def text(self, rows: Sequence[Row]) -> list[list[str]]:
        """Blocks of lines of Markdown between heading and remarks, tables first."""
        raise NotImplementedError

    def numbers(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Entries of the JSON file in addition to settings and rows."""
        raise NotImplementedError

    def row_numbers(self, row: Row) -> dict[str, Any]:
        """Entries of a row of the JSON file in addition to its results."""
        return {}

    def remarks(self, row: Row) -> list[str]:
        """Errors, and how the row's results differ from those requested."""
        complete = sum(result.complete for result in row.results)
        requested = self.study.trials
        return [*row.errors, *([f"{complete} of {requested} trials are complete"] if complete < requested else [])]

    def draw(self, path: Path, rows: Sequence[Row]) -> None:
        """Draw the PNG file ``path``.

        Raises:
            MissingExtraError: if matplotlib is not installed.
        """
        raise NotImplementedError

    def write(self, outcome: Outcome, say: Callable[[str], None]) -> str:
        """Write all files; returns the text. If matplotlib is missing, says so once and draws no figure."""
        study, rows = self.study, rows_of(self.study, outcome)
        folder = study.file(".md").parent
        folder.mkdir(parents=True, exist_ok=True)
        write_text(study.file(".json"), json.dumps(self._as_dict(rows), indent=1) + "\n")
        try:
            if self._draws and any(row.results for row in rows):
                self.draw(folder / self.pictures[0], rows)
        except MissingExtraError as error:
            say(f"no figure: {error}")
            self._draws = False
        text = self._markdown(rows)
        shown = "".join(f"\n![{name}]({name})\n" for name in self.pictures if (folder / name).exists())
        write_text(study.file(".md"), text + shown)
        return text

    def _markdown(self, rows: Sequence[Row]) -> str:
        blocks = [[f"# {self.study.title}"], *self.text(rows)]
        remarks = [f"* {row.variant.name}: {remark}" for row in rows for remark in self.remarks(row)]
        blocks += [remarks] if remarks else []
        blocks.append(
            [
                "Accuracies are per cent of the test set: of each trial's best epoch and of its last one; mean and",
                "sample standard deviation are over trials.",
            ]
        )
        return "\n\n".join("\n".join(block) for block in blocks) + "\n"

    def _as_dict(self, rows: Sequence[Row]) -> dict[str, Any]:
        study = self.study
        return {
            "title": study.title,
            "settings": settings_as_dict(study.base),
            "trials_asked_for": study.trials,
            "rows": [
                {
                    "name": row.variant.name,
                    "text": row.variant.text,
                    "changes": dict(row.variant.changes),
                    **self.row_numbers(row),
                    **summary_as_dict(row.summary),
                    "trials": [trial_as_dict(result, study.out) for result in row.results],
                    "remarks": self.remarks(row),
                }
                for row in rows
            ],
            **self.numbers(rows),
        }


def run_study(
    *reports: Report,
    train: bool = True,
    display: Display | None = None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Train unfinished trials, update the reports after each trial, and print them at the end.

    Args:
        reports: of the studies to train; their studies have one output folder, and may share trials.
        train: whether to train; otherwise the reports contain the existing results.
        display: shows the epochs of a training.
        say: prints a line to the user.

    Returns:
        Every trial with at least one epoch, and those that failed.

    Raises:
        ConfigError: if a trial's folder contains a run with other settings.
        CheckpointError: if its files are damaged.
    """
    out = reports[0].study.out
    trials = list(dict.fromkeys(trial for report in reports for trial in report.study.all_trials()))

    def write(outcome: Outcome) -> list[str]:
        return [report.write(outcome, say) for report in reports]

    outcome = run_trials(out, trials, display=display, say=say, after_each=write) if train else collect(out, trials)
    for text in write(outcome):
        say(f"\n{text}")
    return outcome


def settings_line(config: TrainConfig) -> str:
    """The settings that a reader needs first, as a sentence."""
    return f"{config.dataset}, {config.arch}, {config.steps} steps, {config.epochs} epochs."


RESULT_HEADING = ["epochs", "trials", "mean ± std", "best", "last epoch"]


def result_cells(row: Row) -> list[str]:
    """Cells for `RESULT_HEADING`: epochs, trials, mean of best epochs, best epoch of all, mean of last epochs."""
    summary = row.summary
    if summary is None:
        return ["0", "0", "-", "-", "-"]
    counts = [str(summary.epochs), str(len(summary.counted))]
    figures = [spread(summary.mean, summary.std), per_cent(summary.best)]
    return [*counts, *figures, spread(summary.last_mean, summary.last_std)]


def difference(row: Row, other: Row) -> float | None:
    """Mean difference between the best epochs of two rows, over the seeds that both have."""
    ours, theirs = (
        {} if each.summary is None else {result.trial.config.seed: result.best for result in each.summary.counted}
        for each in (row, other)
    )
    common = ours.keys() & theirs.keys()
    return statistics.fmean(ours[seed] - theirs[seed] for seed in common) if common else None
