"""Ablation of TSSL-BP: the same training with one part of the gradient left out or changed.

All rows but ``reset-subtract`` have the same forward pass. Seeds, and so initial weights and data order, are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tssl_triton.training import ConfigError, TrainConfig, new_figure, save_figure

from .results import aligned, per_cent, times_100
from .study import RESULT_HEADING, Report, Row, Study, Variant, difference, result_cells, settings_line

FULL = "full"

#: Name, difference from the full rule, and the settings of each row.
_ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (FULL, "nothing: TSSL-BP", {}),
    ("no-intra", "no gradient through a spike's effect on the next spike (intra-neuron term)", {"variant": "no-intra"}),
    ("no-leak", "silent steps neither emit an error nor pass one back (leak path)", {"variant": "no-leak"}),
    ("paper", "silent steps emit no error: eq. (14) read literally", {"variant": "paper"}),
    ("warmup-only", "the warm-up surrogate at every step, nothing else", {"warmup": "always"}),
    ("warmup-off", "no warm-up surrogate", {"warmup": "off"}),
    ("warmup-silent", "warm-up only for neurons silent in the whole window", {"warmup": "silent"}),
    ("reset-subtract", "reset by subtraction", {"reset": "subtract"}),
    *((f"slope-{bound}", f"bound {bound} on dt/du", {"max_slope": float(bound)}) for bound in (2, 4, 16, 32)),
)

#: All rows; the first is the one that the others are compared with.
ABLATIONS: dict[str, Variant] = {name: Variant(name, text, changes) for name, text, changes in _ROWS}

#: Settings that differ between rows, and so cannot be set for the study.
VARIED = frozenset({"rule", *(setting for variant in ABLATIONS.values() for setting in variant.changes)})

#: A row whose accuracy is more than this below the best is outside the figure's scale.
FAR = 0.2


def plan(base: TrainConfig, out: Path, trials: int, rows: Sequence[str] = tuple(ABLATIONS)) -> Study:
    """The study of the rows with these names, and of the full rule.

    Raises:
        ConfigError: for an unknown row, a rule other than tssl, or an invalid setting.
    """
    for name in rows:
        if name not in ABLATIONS:
            raise ConfigError(f"rows must be of {', '.join(ABLATIONS)}; got {name!r}")
    if base.rule != "tssl":
        raise ConfigError(f"rule must be tssl for an ablation, got {base.rule!r}")
    variants = tuple(variant for name, variant in ABLATIONS.items() if name == FULL or name in rows)
    return Study("ablation", f"Parts of TSSL-BP on {base.dataset}", out, base, variants, trials)


class AblationReport(Report):
    """A table, and a dot plot."""

    def text(self, rows: Sequence[Row]) -> list[list[str]]:
        """One table; differences in percentage points."""
        table = [["row", "what differs", *RESULT_HEADING, "minus full"]]
        for row in rows:
            gain = difference(row, rows[0])
            cell = "-" if gain is None else f"{100 * gain:+.2f}"
            table.append([row.variant.name, row.variant.text, *result_cells(row), "" if row is rows[0] else cell])
        base = self.study.base
        shared = f"warmup {base.warmup!r}, variant {base.variant!r}, reset {base.reset!r}, max_slope {base.max_slope:g}"
        return [
            aligned(table),
            [
                settings_line(base),
                f"Settings of the row {FULL}: {shared}.",
                "The last column is the mean difference of the best epochs in percentage points, over pairs of trials",
                "with the same seed.",
            ],
        ]

    def numbers(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Differences from the full rule in percentage points, by row."""
        return {"minus_full": {row.variant.name: times_100(difference(row, rows[0])) for row in rows[1:]}}

    def draw(self, path: Path, rows: Sequence[Row]) -> None:
        """A dot per row with its standard deviation and trials, and a line at the full rule.

        A row far below the best is an arrow at the edge, so that the scale separates the others.
        """
        shown = [(row.variant.name, row.summary) for row in rows if row.summary is not None]
        figure = new_figure("the figure of the ablation", 8, 1.4 + 0.36 * len(shown))
        axes = figure.subplots()
        base = self.study.base
        axes.set_title(f"{base.dataset}  {base.arch}, {base.steps} steps, {base.epochs} epochs", fontsize="medium")
        best = max((summary.mean for _, summary in shown), default=0.0)
        near = []
        beside = {"xycoords": ("axes fraction", "data"), "va": "center"}
        for place, (name, summary) in enumerate(shown):
            axes.annotate(per_cent(summary.mean), (1.01, place), **beside)
            if best - summary.mean > FAR:
                axes.annotate("\u25c4", (0.005, place), color="tab:blue", **beside)
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
        save_figure(path, figure)
