"""Learning rules side by side: one data set, one network, equal settings; accuracy over epochs, time and seconds.

What is equal: the data and their order, the layers and their initial weights, the optimizer, learning rate, schedule
and clipping; for spiking rules also the forward pass, its time steps, loss and readout. What is not: the gradient; and
the ANN has neither time nor spikes, and is trained by cross entropy on its logits.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tssl_triton._extras import require
from tssl_triton.rules import RULES
from tssl_triton.training.checkpoint import write_atomically
from tssl_triton.training.config import ConfigError, TrainConfig

from . import accuracy_over_time as over_time
from .results import aligned, per_cent, spread, summary_as_dict
from .study import RESULT_HEADING, Row, Study, Variant, result_cells
from .trials import TRIAL_ERRORS

#: What can be compared.
METHODS = (*RULES, "ann")


def plan(rules: Sequence[str], base: TrainConfig, out: Path, trials: int, over_steps: Sequence[int] = ()) -> Study:
    """The study of these rules.

    Args:
        rules: names of learning rules, and ``"ann"``.
        base: settings that all share; its rule is not used.
        out: folder of all results.
        trials: trials of each rule.
        over_steps: numbers of time steps at which the spiking rules are trained too.

    Raises:
        ConfigError: for an unknown rule, or settings that are invalid at one of the numbers of steps.
    """
    for rule in rules:
        if rule not in METHODS:
            raise ConfigError(f"rules must be of {', '.join(METHODS)}; got {rule!r}")
    rules = tuple(dict.fromkeys(rules))
    if not rules:
        raise ConfigError(f"rules must hold at least one of {', '.join(METHODS)}")
    variants = [Variant(rule, _TEXTS.get(rule, rule), {"rule": rule}) for rule in rules]
    spiking = [rule for rule in rules if rule != "ann"]
    for rule, steps in itertools.product(spiking, sorted(set(over_steps) - {base.steps})):
        text = f"{_TEXTS.get(rule, rule)}, {steps} steps"
        variants.append(Variant(f"{rule}-T{steps}", text, {"rule": rule, "steps": steps}))
    return Study("compare", f"Learning rules on {base.dataset}", out, base, tuple(variants), trials)


_TEXTS = {
    "tssl": "TSSL-BP",
    "stbp": "STBP",
    "slayer": "SLAYER",
    "ann": "ANN, no spikes",
}


@dataclass(frozen=True)
class _Method:
    """A rule with its rows: at the study's own number of steps, and at others."""

    rule: str
    main: Row
    others: list[Row]

    def at_steps(self) -> list[Row]:
        """Rows with results, one per number of steps, rising."""
        return sorted((row for row in (self.main, *self.others) if row.results), key=lambda row: row.config.steps)


class ComparisonReport:
    """Tables and the picture of three panels of `tssl_triton.studies.study.Report`.

    Args:
        study: from `plan`.
        placement: settings of where trained networks are tested, such as ``device``.
        say: prints a line to the user.
    """

    def __init__(self, study: Study, placement: dict[str, Any], say: Callable[[str], None] = print) -> None:
        self._study = study
        self._placement = placement
        self._say = say
        self._unread: set[Path] = set()

    def text(self, rows: Sequence[Row]) -> list[list[str]]:
        """The table of rules, and one of accuracy over time steps."""
        methods, base = self._methods(rows), self._study.base
        table = [["rule", *RESULT_HEADING, "seconds per epoch"]]
        for method in methods:
            summary = method.main.summary
            seconds = "-" if summary is None else f"{summary.seconds_per_epoch:.1f}"
            table.append([method.rule, *result_cells(method.main), seconds])
        blocks = [aligned(table)]
        read = {method.rule: self._over_time(method.main) for method in methods}
        if any(read.values()):
            lines = [[f"read after step, trained with {base.steps}", *map(str, range(1, base.steps + 1))]]
            lines += [[rule, *map(per_cent, accuracy)] for rule, accuracy in read.items() if accuracy]
            blocks.append(aligned(lines))
        trained = {method.rule: method.at_steps() for method in methods if method.others}
        counts = sorted({row.config.steps for of_rule in trained.values() for row in of_rule})
        if counts:
            lines = [["last epoch, trained with steps", *map(str, counts)]]
            for rule, of_rule in trained.items():
                cells = {r.config.steps: spread(r.summary.last_mean, r.summary.last_std) for r in of_rule if r.summary}
                lines.append([rule, *(cells.get(steps, "-") for steps in counts)])
            blocks.append(aligned(lines))
        blocks.append(
            [
                "Equal for all rules: data and their order, layers and initial weights, optimizer, learning rate,",
                "schedule and clipping; for spiking rules also forward pass, time steps, loss and readout. The ANN is",
                "trained by cross entropy and has no time. Seconds are those of training alone, the first epoch's",
                "compilation included.",
            ]
        )
        return blocks

    def numbers(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Curves by rule: mean accuracy over epochs with the seconds passed, after each step, and by trained steps."""
        curves = {}
        for method in self._methods(rows):
            seconds, accuracy = _over_seconds(method.main)
            trained = {row.config.steps: summary_as_dict(row.summary) for row in method.at_steps()}
            curves[method.rule] = {
                "accuracy_over_epochs": [100 * share for share in accuracy],
                "seconds_over_epochs": seconds,
                "accuracy_over_time": [100 * share for share in self._over_time(method.main)],
                "trained_with_steps": trained if method.rule != "ann" else {},
            }
        return {"curves": curves}

    def draw(self, path: Path, rows: Sequence[Row]) -> None:
        """Accuracy over epochs, over time steps, and over seconds of training."""
        figure_module = require("matplotlib.figure", "train", "the picture of the comparison")
        ticker = require("matplotlib.ticker", "train", "the picture of the comparison")
        base = self._study.base
        figure = figure_module.Figure(figsize=(13.5, 4.4), layout="constrained")
        figure.suptitle(f"{base.dataset}  {base.arch}, {base.steps} steps, {base.epochs} epochs")
        epochs_axes, steps_axes, seconds_axes = figure.subplots(1, 3)
        trained_elsewhere = False
        for number, method in enumerate(self._methods(rows)):
            color = f"C{number}"
            curves = [[100 * share for share in result.accuracies] for result in method.main.results]
            if curves:
                self._draw_epochs(epochs_axes, curves, color)
                seconds, accuracy = _over_seconds(method.main)
                label = f"{_TEXTS.get(method.rule, method.rule)}: {spread(*_mean_std(method.main))}"
                marker = "o-" if len(seconds) <= 10 else "-"
                seconds_axes.plot(seconds, [100 * a for a in accuracy], marker, ms=3, color=color, label=label)
            trained_elsewhere |= self._draw_steps(steps_axes, method, color)
        for axes, label in (
            (epochs_axes, "epoch"),
            (steps_axes, "time steps" + (": solid trained with, dashed read after" if trained_elsewhere else " read")),
            (seconds_axes, "seconds of training"),
        ):
            axes.set_xlabel(label)
            axes.set_ylabel("test accuracy (%)")
            axes.grid(alpha=0.3)
        for axes in (epochs_axes, steps_axes):
            axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
        seconds_axes.set_xscale("log")
        seconds_axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        # The first epochs rise steeply; the axes begin where a tenth of them is over, so that the rest can be told
        # apart.
        shown = [result for method in self._methods(rows) for result in method.main.results]
        late = [100 * share for result in shown for share in result.accuracies[len(result.history) // 10 :]]
        if late:
            margin = 0.08 * max(max(late) - min(late), 0.1)
            for axes in (epochs_axes, seconds_axes):
                axes.set_ylim(min(late) - margin, max(late) + margin)
        below = {"loc": "outside lower center", "ncols": 4, "frameon": False}
        figure.legend(*seconds_axes.get_legend_handles_labels(), title="mean of best epochs (%)", **below)
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))

    @staticmethod
    def _draw_epochs(axes: Any, curves: list[list[float]], color: str) -> None:
        epochs = range(1, min(map(len, curves)) + 1)
        at_epoch = [[curve[k - 1] for curve in curves] for k in epochs]
        marker = "o-" if len(epochs) <= 10 else "-"
        axes.plot(epochs, [statistics.fmean(values) for values in at_epoch], marker, ms=3, color=color)
        axes.fill_between(epochs, [min(v) for v in at_epoch], [max(v) for v in at_epoch], color=color, alpha=0.2, lw=0)

    def _draw_steps(self, axes: Any, method: _Method, color: str) -> bool:
        """One rule over time steps; whether networks that were trained with other numbers of steps are among it."""
        if method.rule == "ann":
            if method.main.summary is not None:
                axes.axhline(100 * method.main.summary.last_mean, color=color, ls=":")
            return False
        trained = method.at_steps() if method.others else []
        read = self._over_time(method.main)
        style = "o--" if trained else "o-"
        axes.plot(range(1, len(read) + 1), [100 * share for share in read], style, ms=3, color=color)
        if trained:
            summaries = [row.summary for row in trained if row.summary is not None]
            means = [100 * summary.last_mean for summary in summaries]
            deviations = [100 * (summary.last_std or 0.0) for summary in summaries]
            axes.errorbar(
                [row.config.steps for row in trained], means, yerr=deviations, fmt="s-", capsize=3, color=color
            )
        return bool(trained)

    def _methods(self, rows: Sequence[Row]) -> list[_Method]:
        names = dict.fromkeys(row.config.rule for row in rows)
        grouped = [(rule, [row for row in rows if row.config.rule == rule]) for rule in names]
        return [_Method(rule, of_rule[0], of_rule[1:]) for rule, of_rule in grouped]

    def _over_time(self, row: Row) -> list[float]:
        """Mean over complete trials of the accuracy after each step; empty where there is none."""
        if row.config.rule == "ann":
            return []
        read = []
        for result in row.results:
            if result.complete and result.folder not in self._unread:
                try:
                    read.append(over_time.of_trial(result, self._placement))
                except TRIAL_ERRORS as error:
                    self._unread.add(result.folder)  # said once, and not tried again for every table and panel
                    self._say(f"{result.trial}: {error}")
        return [statistics.fmean(shares) for shares in zip(*read, strict=True)]


def _over_seconds(row: Row) -> tuple[list[float], list[float]]:
    """Mean seconds of training until the end of each epoch, and mean accuracy then, over trials that got there."""
    if not row.results:
        return [], []
    passed = [list(itertools.accumulate(metrics["seconds"] for metrics in r.history)) for r in row.results]
    seconds = [statistics.fmean(values) for values in zip(*passed, strict=False)]
    accuracy = [statistics.fmean(values) for values in zip(*(r.accuracies for r in row.results), strict=False)]
    return seconds, accuracy


def _mean_std(row: Row) -> tuple[float, float | None]:
    assert row.summary is not None
    return row.summary.mean, row.summary.std
