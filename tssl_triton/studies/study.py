"""Studies: one training in several variants under equal settings, several trials of each, set side by side.

`tssl_triton.studies.compare` and `tssl_triton.studies.ablate` say what the variants are and draw the results; here
they are trained
(`tssl_triton.studies.trials`: finished trials are read, half-done ones go on) and written to ``OUT``:

======================  ==============================================================================================
``<variant>/seed-<k>``  the run folder of each trial, as ``tssl train`` makes it
``<study>.md``          the table and what it says nothing of
``<study>.json``        all settings, every trial's accuracy after each epoch, means and deviations, per cent
``<study>.png``         the picture; needs matplotlib
======================  ==============================================================================================
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tssl_triton._extras import MissingExtraError
from tssl_triton.training.checkpoint import write_atomically
from tssl_triton.training.config import ConfigError, TrainConfig, check_known
from tssl_triton.training.display import Display

from .results import per_cent, settings_as_dict, spread, summary_as_dict, trial_as_dict
from .trials import Outcome, Summary, Trial, TrialResult, collect, repeated, run_trials


@dataclass(frozen=True)
class Variant:
    """One row of a study.

    Args:
        name: of its folder.
        text: what it is, for tables.
        changes: settings in which it differs from the study's base.
    """

    name: str
    text: str
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """What is to be trained.

    Args:
        name: of the files it writes.
        title: heading of its report.
        out: folder of all results.
        base: settings that all variants share but for their changes; trials count seeds up from its seed.
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


@dataclass(frozen=True)
class Row:
    """A variant and what its trials gave.

    Args:
        variant: the variant.
        config: its settings.
        summary: of the trials with at least one epoch; None if there are none.
        errors: why trials failed, each reason once.
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
    """One row per variant, in their order, with the trials that there are."""
    summaries = outcome.summaries()
    rows = []
    for variant in study.variants:
        errors = dict.fromkeys(failure.error for failure in outcome.failures if failure.trial.name == variant.name)
        rows.append(Row(variant, study.config(variant), summaries.get(variant.name), tuple(errors)))
    return rows


class Report(Protocol):
    """What a kind of study shows of its rows, in the order in which it is asked."""

    def text(self, rows: Sequence[Row]) -> list[list[str]]:
        """Blocks of lines of Markdown between heading and remarks, tables first."""

    def numbers(self, rows: Sequence[Row]) -> dict[str, Any]:
        """What joins the JSON file beside settings and rows."""

    def draw(self, path: Path, rows: Sequence[Row]) -> None:
        """Draw the PNG file ``path``.

        Raises:
            MissingExtraError: if matplotlib is not installed.
        """


def run_study(
    study: Study,
    report: Report,
    *,
    train: bool = True,
    display: Display | None = None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Train what is missing, write the report after each trial anew, and print it at the end.

    Args:
        study: what to do.
        report: how it is shown.
        train: whether to train; otherwise the report tells what is there.
        display: shows the epochs of a training.
        say: prints a line to the user.

    Returns:
        Every trial with at least one epoch, and those that failed.

    Raises:
        ConfigError: if a trial's folder holds a run of other settings.
        CheckpointError: if its files are damaged.
    """
    trials = study.all_trials()
    writer = _Writer(study, report, say)
    if train:
        outcome = run_trials(study.out, trials, display=display, say=say, after_each=writer.write)
    else:
        outcome = collect(study.out, trials)
    say(f"\n{writer.write(outcome)}")
    return outcome


class _Writer:
    """Brings a study's files up to date; without matplotlib there is no picture, which is said once."""

    def __init__(self, study: Study, report: Report, say: Callable[[str], None]) -> None:
        self._study = study
        self._report = report
        self._say = say
        self._draws = True

    def write(self, outcome: Outcome) -> str:
        """Write the files; the report's text."""
        study, rows = self._study, rows_of(self._study, outcome)
        study.out.mkdir(parents=True, exist_ok=True)
        text = self._markdown(rows)
        content = json.dumps(self._as_dict(rows), indent=1) + "\n"
        write_atomically(study.out / f"{study.name}.json", lambda file: file.write(content.encode()))
        picture = study.out / f"{study.name}.png"
        try:
            if self._draws and any(row.results for row in rows):
                self._report.draw(picture, rows)
        except MissingExtraError as error:
            self._say(f"no picture: {error}")
            self._draws = False
        shown = f"\n![{picture.name}]({picture.name})\n" if picture.exists() else ""
        write_atomically(study.out / f"{study.name}.md", lambda file: file.write((text + shown).encode()))
        return text

    def _markdown(self, rows: Sequence[Row]) -> str:
        study, base = self._study, self._study.base
        blocks = [[f"# {study.title}"], *self._report.text(rows)]
        remarks = [f"* {row.variant.name}: {remark}" for row in rows for remark in _remarks(row, study.trials)]
        blocks += [remarks] if remarks else []
        blocks.append(
            [
                f"{base.dataset}, {base.arch}, {base.steps} steps, {base.epochs} epochs.",
                "Accuracies are per cent of the test set: of each trial's best epoch and of its last one; mean and",
                "sample standard deviation are over trials.",
            ]
        )
        return "\n\n".join("\n".join(block) for block in blocks) + "\n"

    def _as_dict(self, rows: Sequence[Row]) -> dict[str, Any]:
        study = self._study

        def plain(row: Row) -> dict[str, Any]:
            return {
                "name": row.variant.name,
                "text": row.variant.text,
                "changes": dict(row.variant.changes),
                **summary_as_dict(row.summary),
                "trials": [trial_as_dict(result, study.out) for result in row.results],
                "remarks": _remarks(row, study.trials),
            }

        return {
            "title": study.title,
            "settings": settings_as_dict(study.base),
            "trials_asked_for": study.trials,
            "rows": [plain(row) for row in rows],
            **self._report.numbers(rows),
        }


def result_cells(row: Row) -> list[str]:
    """Cells for epochs, trials, mean of best epochs, best epoch of all, and mean of last epochs."""
    summary = row.summary
    if summary is None:
        return ["0", "0", "-", "-", "-"]
    counts = [str(summary.epochs), str(len(summary.counted))]
    figures = [spread(summary.mean, summary.std), per_cent(summary.best)]
    return [*counts, *figures, spread(summary.last_mean, summary.last_std)]


RESULT_HEADING = ["epochs", "trials", "mean ± std", "best", "last epoch"]


def difference(row: Row, other: Row) -> float | None:
    """By how much the best epochs of a row are better than another row's, on average over the seeds that both have."""
    ours, theirs = (
        {} if each.summary is None else {result.trial.config.seed: result.best for result in each.summary.counted}
        for each in (row, other)
    )
    common = ours.keys() & theirs.keys()
    return statistics.fmean(ours[seed] - theirs[seed] for seed in common) if common else None


def _remarks(row: Row, trials: int) -> list[str]:
    complete = sum(result.complete for result in row.results)
    unfinished = [f"{complete} of {trials} trials are complete"] if complete < trials else []
    return [*row.errors, *unfinished]
