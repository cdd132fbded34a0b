"""Reproduction of the paper's tables and figures: trained again and compared with the printed numbers.

A target is a table (``table1`` to ``table4``), a figure (``fig7``, ``fig8``) or a recipe: a name in
`tssl_triton.training.recipes` or a TOML file. Each target is a `Study` whose variants are recipes. Trials are in
``OUT/<recipe>/seed-<k>``, so targets share them. Each target's results are in ``OUT/<target>``:

=======================  ==============================================================================================
``report.md``            the table, the paper's numbers beside ours, and deviations from the paper's conditions
``report.json``          the same numbers, every trial's accuracy after each epoch, and all settings
``learning_curves.png``  test accuracy over epochs: mean and range over trials; the paper's mean as a line
``sparsity.json, .png``  figures only: firing of the first trial's network after its last epoch
=======================  ==============================================================================================
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tssl_triton._extras import MissingExtraError
from tssl_triton.inspection import sparsity
from tssl_triton.training import ConfigError, Display, TrainConfig, load_trainer, new_figure, recipes, save_figure
from tssl_triton.training.recipes import Paper, Recipe, RecipeError

from .results import aligned, draw_accuracies, fit_accuracies, per_cent, settings_as_dict
from .study import Report, Row, Study, Variant, result_cells, run_study
from .trials import TRIAL_ERRORS, Failure, Outcome

#: The networks of the paper's firing-sparsity figures. Which number belongs to which data set is an assumption: the
#: captions were not available. Everywhere else the figures are named by their data sets.
FIGURES = {
    "fig7": ("firing sparsity on N-MNIST", "n-mnist-100"),
    "fig8": ("firing sparsity on CIFAR-10", "cifar10-cnn1"),
}

TABLES = {
    "table1": "MNIST",
    "table2": "N-MNIST",
    "table3": "Fashion-MNIST",
    "table4": "CIFAR-10",
}

#: Number of trials over which the paper gives mean and deviation.
PAPER_TRIALS = 5


@dataclass(frozen=True)
class Target:
    """A table, figure or recipe to reproduce.

    Args:
        name: as on the command line; for a recipe in a file, the file's name without suffix.
        title: heading of its report.
        recipes: its rows.
        table: number of the paper's table, whose rows of other methods are printed too; None for others.
        figure: whether firing sparsity is measured.
    """

    name: str
    title: str
    recipes: tuple[Recipe, ...]
    table: int | None = None
    figure: bool = False


def find_target(name: str) -> Target:
    """The target of a name.

    Raises:
        RecipeError: for an unknown name, or a file that is not a recipe.
    """
    if name in TABLES:
        table = int(name.removeprefix("table"))
        return Target(name, f"Table {table}: {TABLES[name]}", tuple(recipes.of_table(table)), table)
    if name in FIGURES:
        title, recipe = FIGURES[name]
        return Target(name, f"Figure {name.removeprefix('fig')}: {title}", (recipes.read(recipe),), figure=True)
    if not name.endswith(".toml") and name not in recipes.NAMES:
        known = ", ".join((*TABLES, *FIGURES, *recipes.NAMES))
        raise RecipeError(f"unknown target {name!r}: known are {known}, and recipes in .toml files")
    found = recipes.read(name)
    return Target(found.name, f"Recipe {found.name}", (found,))


def plan(names: Sequence[str], out: Path, trials: int | None = None, **changes: Any) -> list[ReproductionReport]:
    """The studies of some targets, with their reports.

    Args:
        names: of the targets.
        out: folder of all results.
        trials: number of trials of each recipe; if not given, as many as the paper's for tables and recipes, and 1 for
            figures.
        changes: settings that replace those of the recipes, such as ``epochs`` and ``device``.

    Raises:
        RecipeError, ConfigError: for a target, recipe or setting that is unknown or invalid.
    """
    targets = [find_target(name) for name in dict.fromkeys(names)]
    configs: dict[str, TrainConfig] = {}
    counts: dict[str, int] = {}
    for target in targets:
        for recipe in target.recipes:
            config = recipe.config(**changes)
            if configs.setdefault(recipe.name, config) != config:
                raise ConfigError(f"two recipes with different settings are named {recipe.name}")
            requested = trials if trials is not None else 1 if target.figure else PAPER_TRIALS
            counts[recipe.name] = max(requested, counts.get(recipe.name, 0))
    for name, number in Counter(target.name for target in targets).items():
        if number > 1:
            raise ConfigError(f"{number} targets are named {name}, and would overwrite each other's report")
    reports = []
    for target in targets:
        base, number = configs[target.recipes[0].name], max(counts[recipe.name] for recipe in target.recipes)
        variants = []
        for recipe in target.recipes:
            own = dataclasses.asdict(configs[recipe.name])
            changes = {name: value for name, value in own.items() if value != getattr(base, name)}
            variants.append(Variant(recipe.name, own["arch"], changes))
        study = Study(f"{target.name}/report", target.title, out, base, tuple(variants), number)
        reports.append(ReproductionReport(target, study))
    return reports


def reproduce(
    reports: Sequence[ReproductionReport],
    *,
    train: bool = True,
    display: Display | None = None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Train unfinished trials, write every target's report, and measure the firing sparsity of figures.

    Args:
        reports: from `plan`.
        train, display, say: as for `tssl_triton.studies.run_study`, as are the errors and the result.
    """
    outcome = run_study(*reports, train=train, display=display, say=say)
    for report in reports:
        if report.target.figure and not outcome.interrupted:
            outcome = _measure(report, outcome, say)
    return outcome


def _measure(report: ReproductionReport, outcome: Outcome, say: Callable[[str], None]) -> Outcome:
    """Measure the firing sparsity of the first trial; an error is added to the failures."""
    study = report.study
    trial = study.all_trials()[0]
    result = next((result for result in outcome.results if result.trial == trial), None)
    if result is None:
        return outcome
    placement = {name: getattr(trial.config, name) for name in ("device", "data_root", "download", "test_batch_size")}
    try:
        measured = sparsity.measure(load_trainer(result.folder, placement))
        for line in aligned(measured.table()):
            say(line)
        sparsity.write(study.file(".md").parent, measured, f"{study.title}, after {measured.epochs} epochs")
    except MissingExtraError as error:
        say(f"no figure: {error}")
    except TRIAL_ERRORS as error:
        say(f"{report.target.name}: {error}")
        return dataclasses.replace(outcome, failures=(*outcome.failures, Failure(trial, str(error))))
    return outcome


class ReproductionReport(Report):
    """The table of a target with the paper's numbers, and learning curves.

    Args:
        target: the target.
        study: its trainings.
    """

    def __init__(self, target: Target, study: Study) -> None:
        super().__init__(study)
        self.target = target
        self.pictures = ("learning_curves.png", *(("sparsity.png",) if target.figure else ()))
        self._paper = {recipe.name: recipe.paper for recipe in target.recipes}
        self._others = [] if target.table is None else recipes.comparisons(target.table)

    def text(self, rows: Sequence[Row]) -> list[list[str]]:
        """The results beside the paper's, every trial, and other methods in the paper's table."""
        heading = ["recipe", "network", "T", "epochs", "trials", "mean ± std", "best", "last epoch"]
        results = [[*heading, "paper: epochs", "mean ± std", "best"]]
        trials = [["trial", "epochs", "best", "at epoch", "last"]]
        for row in rows:
            ours = [row.variant.name, row.config.arch, str(row.config.steps), *result_cells(row)]
            results.append(ours + _paper_cells(self._paper[row.variant.name]))
            for result in row.results:
                epochs = f"{len(result.history)}" + ("" if result.complete else f" of {row.config.epochs}")
                best = [per_cent(result.best), str(result.best_epoch)]
                trials.append([str(result.trial), epochs, *best, per_cent(result.last)])
        others = [["other methods in the paper's table", "network", "steps", "mean", "best"]]
        for other in self._others:
            printed = [str(other.get(key, "-")) for key in ("method", "network", "steps")]
            others.append([*printed, *(_two_digits(other.get(key)) for key in ("mean", "best"))])
        return [aligned(results), *(aligned(table) for table in (trials, others) if len(table) > 1)]

    def numbers(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The rows of other methods."""
        return {"other_methods": self._others}

    def row_numbers(self, row: Row) -> dict[str, Any]:
        """The row's recipe, all its settings, and the paper's numbers."""
        paper = self._paper[row.variant.name]
        return {
            "recipe": row.variant.name,
            "settings": settings_as_dict(row.config),
            "trials_asked_for": self.study.trials,
            "paper": None if paper is None else dataclasses.asdict(paper),
        }

    def remarks(self, row: Row) -> list[str]:
        """The remarks of every study, and deviations from the paper's conditions."""
        remarks = super().remarks(row)
        paper, summary = self._paper[row.variant.name], row.summary
        if paper is not None and summary is not None:
            if summary.epochs < paper.epochs:
                remarks.append(f"{_counted(summary.epochs, 'epoch')}, the paper has {paper.epochs}")
            if paper.mean is not None and len(summary.counted) < PAPER_TRIALS:
                remarks.append(f"{_counted(len(summary.counted), 'trial')}, the paper has {PAPER_TRIALS}")
        if paper is not None and paper.note:
            remarks.append(f"paper: {paper.note}")
        return remarks

    def draw(self, path: Path, rows: Sequence[Row]) -> None:
        """Test accuracy over epochs, one panel per recipe with results."""
        rows = [row for row in rows if row.results]
        figure = new_figure("the learning curves", 6 * len(rows), 4)
        figure.suptitle(self.study.title)
        for axes, row in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows, strict=True):
            summary, paper = row.summary, self._paper[row.variant.name]
            assert summary is not None
            several = len(summary.counted) > 1
            best = f"mean of best epochs {per_cent(summary.mean)}" if several else f"best {per_cent(summary.best)}"
            trials = ("" if len(row.results) == 1 else "mean of ") + _counted(len(row.results), "trial")
            shown = draw_accuracies(axes, row.results, label=f"{trials}; {best}")
            if paper is not None:
                value, what = (paper.best, "best") if paper.mean is None else (paper.mean, "mean")
                axes.axhline(value, ls="--", color="tab:red", lw=1, label=f"paper, {what} {value:.2f}")
                shown.append(value)
            fit_accuracies(axes, shown)
            axes.set_title(f"{row.variant.name}: {row.config.arch}", fontsize="medium")
            axes.legend(loc="lower right", fontsize="small")
        save_figure(path, figure)


def _paper_cells(paper: Paper | None) -> list[str]:
    if paper is None:
        return ["-", "-", "-"]
    mean = _two_digits(paper.mean) + (f" ± {paper.std:.2f}" if paper.std is not None else "")
    return [str(paper.epochs), mean, _two_digits(paper.best)]


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _two_digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
