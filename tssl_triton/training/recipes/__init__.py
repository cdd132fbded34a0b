"""Recipes: the settings of each row of the paper's tables, one TOML file each, with the paper's results.

A recipe contains settings of `tssl_triton.training.TrainConfig` and a table ``[paper]``; comments give the source of
each setting. ``tssl reproduce NAME`` trains it, and ``tssl train --config FILE`` accepts the file. The results of
other methods, which are only printed, are in ``comparisons.toml``.

Source of the printed numbers: W. Zhang and P. Li, "Temporal Spike Sequence Learning via Backpropagation for Deep
Spiking Neural Networks", NeurIPS 2020, arXiv 2002.10085, Tables 1-4.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tssl_triton._errors import UserError

from ..config import ConfigError, TrainConfig, check_known, parse_toml

FOLDER = Path(__file__).parent

#: Every recipe, in the order of the tables; the last is not from the paper.
NAMES = (
    "mnist",
    "n-mnist-100",
    "n-mnist-30",
    "fashion-mnist-400-400",
    "fashion-mnist-cnn",
    "cifar10-cnn1",
    "cifar10-cnn2",
    "dvs-gesture",
)

TABLES = (1, 2, 3, 4)

#: Names of recipes and trials, which are also names of folders.
FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")
FOLDER_NAME_RULE = "letters, digits and . _ = + -, starting with a letter or digit"


class RecipeError(UserError, ValueError):
    """A recipe that is unknown or cannot be read; the message names it."""


@dataclass(frozen=True)
class Paper:
    """The paper's results for a row of its tables. Accuracies are per cent of the test set.

    Args:
        table: number of the table.
        steps: time steps T.
        epochs: epochs of training.
        best: best epoch of the best trial.
        mean: mean over trials of each trial's best epoch; None if the paper has a single trial.
        std: standard deviation of the same.
        note: a remark about the numbers.
    """

    table: int
    steps: int
    epochs: int
    best: float
    mean: float | None = None
    std: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Recipe:
    """Settings of one experiment.

    Args:
        name: of the recipe.
        settings: values of fields of `TrainConfig`.
        paper: the paper's results; None for a recipe that is not from the paper.
    """

    name: str
    settings: Mapping[str, Any]
    paper: Paper | None

    def config(self, **changes: Any) -> TrainConfig:
        """The settings as a training takes them, with ``changes`` applied.

        Raises:
            ConfigError: (a ValueError) for a setting that is unknown or invalid.
        """
        settings = {**self.settings, **changes}
        for setting in settings:
            check_known(setting, f" in recipe {self.name}")
        try:
            return TrainConfig(**settings)
        except ConfigError as error:
            raise ConfigError(f"recipe {self.name}: {error}") from error


def read(name: str) -> Recipe:
    """The recipe of a name in `NAMES`, or in a file whose name ends in ``.toml``.

    Raises:
        RecipeError: for an unknown name, or a file that is missing or not a recipe.
    """
    if name.endswith(".toml"):
        path = Path(name)
    elif name in NAMES:
        path = FOLDER / f"{name}.toml"
    else:
        raise RecipeError(f"unknown recipe {name!r}: known are {', '.join(NAMES)}, and files that end in .toml")
    if not FOLDER_NAME.fullmatch(path.stem):
        raise RecipeError(f"the name of recipe {path} is also that of a folder: it must be {FOLDER_NAME_RULE}")
    settings = parse_toml(path, "recipe", RecipeError)
    paper = settings.pop("paper", None)
    try:
        return Recipe(path.stem, settings, None if paper is None else Paper(**paper))
    except TypeError as error:
        accepted = ", ".join(field.name for field in dataclasses.fields(Paper))
        raise RecipeError(f"recipe {path}: [paper] takes {accepted}: {error}") from error


def of_table(table: int) -> list[Recipe]:
    """The recipes of a table of the paper, in its order."""
    recipes = [read(name) for name in NAMES]
    return [recipe for recipe in recipes if recipe.paper is not None and recipe.paper.table == table]


def comparisons(table: int) -> list[dict[str, Any]]:
    """Other methods in a table of the paper: ``method``, ``network``, ``best`` and further confirmed numbers."""
    rows: list[dict[str, Any]] = parse_toml(FOLDER / "comparisons.toml", "recipe", RecipeError)["row"]
    return [row for row in rows if row["table"] == table]
