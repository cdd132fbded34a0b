"""The paper's tables and figures, trained anew and set beside the printed numbers.

A target is a table (``table1`` to ``table4``), a figure (``fig7``, ``fig8``) or a recipe: a name in
`tssl_triton.training.recipes` or a TOML file. Trials go to ``OUT/<recipe>/seed-<k>`` (`tssl_triton.studies.trials`),
so targets share
them, and what was trained before is read. Each target's results go to a folder of its own:

=======================  ==============================================================================================
``report.md``            the table, the paper's numbers beside ours, and what differs from the paper's conditions
``report.json``          the same numbers, every trial's accuracy after each epoch, and all settings
``learning_curves.png``  test accuracy over epochs: mean, and least to most over trials; the paper's mean as a line
``sparsity.json, .png``  of a figure: how the first trial's network fires after its last epoch
=======================  ==============================================================================================
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tssl_triton._extras import MissingExtraError
from tssl_triton.inspection import sparsity
from tssl_triton.training import recipes
from tssl_triton.training.checkpoint import write_atomically
from tssl_triton.training.config import ConfigError, TrainConfig
from tssl_triton.training.display import Display
from tssl_triton.training.recipes import Recipe
from tssl_triton.training.run import load_trainer

from .reproduce_report import PAPER_TRIALS, Row, aligned, as_dict, draw_curves, markdown
from .trials import TRIAL_ERRORS, Failure, Outcome, Trial, collect, repeated, run_trials

#: The networks of the paper's firing-sparsity figures. The captions could not be looked up when this was written, so
#: which number is which data set's is an assumption; the figures are named by their data sets everywhere else.
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


@dataclass(frozen=True)
class Target:
    """What is to be reproduced.

    Args:
        name: as on the command line; of a recipe in a file, the file's name without its end.
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
        RecipeError: for a name that is none, or a file that is no recipe.
    """
    if name in TABLES:
        table = int(name.removeprefix("table"))
        return Target(name, f"Table {table}: {TABLES[name]}", tuple(recipes.of_table(table)), table)
    if name in FIGURES:
        title, recipe = FIGURES[name]
        return Target(name, f"Figure {name.removeprefix('fig')}: {title}", (recipes.read(recipe),), figure=True)
    try:
        recipe = recipes.read(name)
    except recipes.RecipeError as error:
        if name.endswith(".toml"):
            raise
        known = ", ".join((*TABLES, *FIGURES, *recipes.NAMES))
        raise recipes.RecipeError(f"unknown target {name!r}: known are {known}, and recipes in .toml files") from error
    return Target(recipe.name, f"Recipe {recipe.name}", (recipe,))


@dataclass(frozen=True)
class Plan:
    """The trials of some targets.

    Args:
        targets: what is to be reproduced.
        out: folder of all results.
        configs: settings by name of the recipe, with seed 0.
        trials: number of trials of each recipe.
    """

    targets: tuple[Target, ...]
    out: Path
    configs: dict[str, TrainConfig]
    trials: dict[str, int]

    def of(self, recipe: str) -> list[Trial]:
        """The trials of one recipe."""
        return repeated(recipe, self.configs[recipe], self.trials[recipe])

    def all(self) -> list[Trial]:
        """Every trial, each once, whatever number of targets it serves."""
        return [trial for recipe in self.configs for trial in self.of(recipe)]


def plan(names: Sequence[str], out: Path, trials: int | None = None, **changes: Any) -> Plan:
    """Work out which trials the targets need.

    Args:
        names: of the targets.
        out: folder of all results.
        trials: number of trials of each recipe; if not given, as many as the paper's for tables and recipes, and 1 for
            figures.
        changes: settings that replace those of the recipes, such as ``epochs`` and ``device``.

    Raises:
        RecipeError, ConfigError: for a target, recipe or setting that is unknown or invalid.
    """
    if trials is not None and trials < 1:
        raise ConfigError(f"trials must be >= 1, got {trials}")
    targets = tuple(find_target(name) for name in dict.fromkeys(names))
    configs: dict[str, TrainConfig] = {}
    counts: dict[str, int] = {}
    for target in targets:
        for recipe in target.recipes:
            config = recipe.config(**changes)
            if configs.setdefault(recipe.name, config) != config:
                raise ConfigError(f"two recipes of different settings are named {recipe.name}")
            wanted = trials if trials is not None else 1 if target.figure else PAPER_TRIALS
            counts[recipe.name] = max(wanted, counts.get(recipe.name, 0))
    for name, number in Counter(target.name for target in targets).items():
        if number > 1:
            raise ConfigError(f"{number} targets are named {name}, and each would write its report over the other's")
    return Plan(targets, out, configs, counts)


def reproduce(
    planned: Plan,
    *,
    train: bool = True,
    display: Display | None = None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Train what is missing and write every target's report, after each trial anew; print the tables at the end.

    Args:
        planned: what to do.
        train: whether to train; otherwise the reports tell what is there.
        display: shows the epochs of a training.
        say: prints a line to the user.

    Returns:
        Every trial with at least one epoch, and those that failed.

    Raises:
        ConfigError: if a trial's folder holds a run of other settings.
        CheckpointError: if its files are damaged.
    """
    trials = planned.all()
    writer = _Writer(planned, say)
    if train:
        outcome = run_trials(planned.out, trials, display=display, say=say, after_each=writer.write)
    else:
        outcome = collect(planned.out, trials)
    texts = writer.write(outcome)
    for target, text in zip(planned.targets, texts, strict=True):
        say(f"\n{text}")
        if target.figure and not outcome.interrupted:
            outcome = _measure(planned, target, outcome, say)
    return outcome


class _Writer:
    """Brings the reports of all targets up to date; without matplotlib there are no curves, which is said once."""

    def __init__(self, planned: Plan, say: Callable[[str], None]) -> None:
        self._planned = planned
        self._say = say
        self._draws = True

    def write(self, outcome: Outcome) -> list[str]:
        """Write every target's report; their texts."""
        return [self._write(target, rows_of(self._planned, target, outcome)) for target in self._planned.targets]

    def _write(self, target: Target, rows: list[Row]) -> str:
        folder = self._planned.out / target.name
        folder.mkdir(parents=True, exist_ok=True)
        others = [] if target.table is None else recipes.comparisons(target.table)
        text = markdown(target.title, rows, others)
        pictures = ["learning_curves.png"]
        content = json.dumps(as_dict(target.title, rows, others, self._planned.out), indent=1) + "\n"
        write_atomically(folder / "report.json", lambda file: file.write(content.encode()))
        try:
            if self._draws:
                draw_curves(folder / "learning_curves.png", target.title, rows)
        except MissingExtraError as error:
            self._say(f"no learning curves: {error}")
            self._draws = False
        pictures += ["sparsity.png"] if target.figure else []
        shown = "".join(f"\n![{name}]({name})\n" for name in pictures if (folder / name).exists())
        write_atomically(folder / "report.md", lambda file: file.write((text + shown).encode()))
        return text


def rows_of(planned: Plan, target: Target, outcome: Outcome) -> list[Row]:
    """One row per recipe of the target, with the trials that there are."""
    summaries = outcome.summaries()
    rows = []
    for recipe in target.recipes:
        errors = dict.fromkeys(failure.error for failure in outcome.failures if failure.trial.name == recipe.name)
        config, count = planned.configs[recipe.name], planned.trials[recipe.name]
        rows.append(Row(recipe, config, count, summaries.get(recipe.name), tuple(errors)))
    return rows


def _measure(planned: Plan, target: Target, outcome: Outcome, say: Callable[[str], None]) -> Outcome:
    """Measure the firing sparsity of a figure's first trial; an error joins the failures."""
    trial = planned.of(target.recipes[0].name)[0]
    result = next((result for result in outcome.results if result.trial == trial), None)
    if result is None:
        return outcome
    placement = {name: getattr(trial.config, name) for name in ("device", "data_root", "download", "test_batch_size")}
    try:
        measured = sparsity.measure(load_trainer(result.folder, placement))
        for line in aligned(measured.table()):
            say(line)
        sparsity.write(planned.out / target.name, measured, f"{target.title}, after {measured.epochs} epochs")
    except MissingExtraError as error:
        say(f"no figure: {error}")
    except TRIAL_ERRORS as error:
        say(f"{target.name}: {error}")
        return dataclasses.replace(outcome, failures=(*outcome.failures, Failure(trial, str(error))))
    return outcome
