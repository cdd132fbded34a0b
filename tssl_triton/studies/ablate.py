"""What TSSL-BP itself contributes: the same training with one part of its gradient left out or changed.

Forward is the same in all rows but the one of the reset; the seeds, and so initial weights and order of the images,
are the same in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tssl_triton._extras import require
from tssl_triton.training.checkpoint import write_atomically
from tssl_triton.training.config import ConfigError, TrainConfig

from .results import aligned, per_cent, times_100
from .study import RESULT_HEADING, Row, Study, Variant, difference, result_cells

FULL = "full"

#: Row, what differs, and the settings that make it so.
_ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (FULL, "nothing: TSSL-BP", {}),
    ("no-intra", "no credit through a spike's effect on the next (intra-neuron term)", {"variant": "no-intra"}),
    ("no-leak", "silent steps neither emit an error nor hand one back (leak path)", {"variant": "no-leak"}),
    ("paper", "silent steps emit no error: eq. (14) read literally", {"variant": "paper"}),
    ("warmup-only", "the warm-up surrogate at every step, nothing else", {"warmup": "always"}),
    ("warmup-off", "no warm-up surrogate", {"warmup": "off"}),
    ("warmup-silent", "warm-up only of neurons silent in the whole window", {"warmup": "silent"}),
    ("reset-subtract", "reset by subtraction", {"reset": "subtract"}),
    *((f"slope-{bound}", f"bound {bound} on dt/du", {"max_slope": float(bound)}) for bound in (2, 4, 16, 32)),
)

#: Every row that can be asked for; the first is the one that the others are compared with.
ABLATIONS: dict[str, Variant] = {name: Variant(name, text, changes) for name, text, changes in _ROWS}

#: Settings that make the difference between rows, and so are none of the study's own.
VARIED = frozenset({"rule", *(setting for variant in ABLATIONS.values() for setting in variant.changes)})

FAR = 0.2
"""Below the best row by more than this accuracy, a row is off the picture's scale."""


def plan(base: TrainConfig, out: Path, trials: int, rows: Sequence[str] = tuple(ABLATIONS)) -> Study:
    """The study of the rows of these names; the full rule joins them, as the row to compare with.

    Raises:
        ConfigError: for an unknown row, another rule than tssl, or an invalid setting.
    """
    for name in rows:
        if name not in ABLATIONS:
            raise ConfigError(f"rows must be of {', '.join(ABLATIONS)}; got {name!r}")
    if base.rule != "tssl":
        raise ConfigError(f"rule must be tssl, whose parts are left out, got {base.rule!r}")
    names = [name for name in ABLATIONS if name == FULL or name in rows]
    variants = tuple(ABLATIONS[name] for name in names)
    return Study("ablation", f"Parts of TSSL-BP on {base.dataset}", out, base, variants, trials)


class AblationReport:
    """Table and dot plot of `tssl_triton.studies.study.Report`."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def text(self, rows: Sequence[Row]) -> list[list[str]]:
        """One table; differences in percentage points."""
        table = [["row", "what differs", *RESULT_HEADING, "minus full"]]
        for row in rows:
            gain = difference(row, rows[0])
            cell = "-" if gain is None else f"{100 * gain:+.2f}"
            table.append([row.variant.name, row.variant.text, *result_cells(row), "" if row is rows[0] else cell])
        base = self._study.base
        shared = f"warmup {base.warmup!r}, variant {base.variant!r}, reset {base.reset!r}, max_slope {base.max_slope:g}"
        return [
            aligned(table),
            [
                f"Settings of the row {FULL}: {shared}.",
                "The last column is the mean difference of the best epochs in percentage points, over pairs of trials",
                "with the same seed.",
            ],
        ]

    def numbers(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Differences from the full rule in percentage points, by row."""
        return {"minus_full": {row.variant.name: times_100(difference(row, rows[0])) for row in rows[1:]}}

    def draw(self, path: Path, rows: Sequence[Row]) -> None:
        """A dot per row with its standard deviation, the trials beside it, and a line where the full rule is.

        A row that fails altogether is an arrow at the edge, so that the others can be told apart.
        """
        figure_module = require("matplotlib.figure", "train", "the picture of the ablation")
        shown = [(row.variant.name, row.summary) for row in rows if row.summary is not None]
        figure = figure_module.Figure(figsize=(8, 1.4 + 0.36 * len(shown)), layout="constrained")
        axes = figure.subplots()
        base = self._study.base
        axes.set_title(f"{base.dataset}  {base.arch}, {base.steps} steps, {base.epochs} epochs", fontsize="medium")
        best = max((summary.mean for _, summary in shown), default=0.0)
        near = []
        for place, (name, summary) in enumerate(shown):
            axes.annotate(per_cent(summary.mean), (1.01, place), xycoords=("axes fraction", "data"), va="center")
            if best - summary.mean > FAR:
                axes.annotate(
                    "\u25c4", (0.005, place), xycoords=("axes fraction", "data"), va="center", color="tab:blue"
                )
                continue
            color = "tab:red" if name == FULL else "tab:blue"
            if name == FULL:
                axes.axvline(100 * summary.mean, color=color, lw=1, ls="--")
            trials = [100 * result.best for result in summary.counted]
            axes.plot(trials, [place] * len(trials), "|", color="0.4", markersize=9)
            axes.errorbar(100 * summary.mean, place, xerr=times_100(summary.std), fmt="o", color=color, capsize=3)
            near += trials
        if near:
            margin = max(0.1, 0.1 * (max(near) - min(near)))
            axes.set_xlim(min(near) - margin, max(near) + margin)
            axes.set_ylim(-0.5, len(shown) - 0.5)
        axes.set_yticks(range(len(shown)), [name for name, _ in shown])
        axes.invert_yaxis()
        axes.set_xlabel("test accuracy of the best epoch (%): mean, standard deviation, trials")
        axes.grid(axis="x", alpha=0.3)
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
