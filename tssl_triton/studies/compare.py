"""Comparison of learning rules: same data, network and settings; accuracy over epochs, time steps and seconds.

Equal for all rules: data and their order, layers and initial weights, optimizer, learning rate, schedule and clipping;
for spiking rules also the forward pass, time steps, loss and readout. Different: the gradient. The ANN has neither time
nor spikes, and is trained by cross entropy on its logits.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tssl_triton._extras import require
from tssl_triton.rules import RULES
from tssl_triton.training import ConfigError, TrainConfig, new_figure, save_figure

from . import accuracy_over_time
from .results import aligned, draw_accuracies, fit_accuracies, per_cent, spread, summary_as_dict
from .study import RESULT_HEADING, Report, Row, Study, Variant, result_cells, settings_line
from .trials import TRIAL_ERRORS

#: Learning rules that can be compared.
METHODS = (*RULES, "ann")

_TITLES = {"tssl": "TSSL-BP", "stbp": "STBP", "slayer": "SLAYER", "ann": "ANN, no spikes"}


def plan(rules: Sequence[str], base: TrainConfig, out: Path, trials: int, over_steps: Sequence[int] = ()) -> Study:
    """The study of these rules.

    Args:
        rules: names of learning rules, and ``"ann"``.
        base: settings of all rules; its own rule is not used.
        out: folder of all results.
        trials: trials of each rule.
        over_steps: further numbers of time steps with which the spiking rules are trained.

    Raises:
        ConfigError: for an unknown rule, or settings that are invalid with one of the numbers of steps.
    """
    for rule in rules:
        if rule not in METHODS:
            raise ConfigError(f"rules must be of {', '.join(METHODS)}; got {rule!r}")
    rules = tuple(dict.fromkeys(rules))
    if not rules:
        raise ConfigError(f"rules must contain at least one of {', '.join(METHODS)}")
    variants = [Variant(rule, _TITLES.get(rule, rule), {"rule": rule}) for rule in rules]
    spiking = [rule for rule in rules if rule != "ann"]
    for rule, steps in itertools.product(spiking, sorted(set(over_steps) - {base.steps})):
        text = f"{_TITLES.get(rule, rule)}, {steps} steps"
        variants.append(Variant(f"{rule}-T{steps}", text, {"rule": rule, "steps": steps}))
    return Study("compare", f"Learning rules on {base.dataset}", out, base, tuple(variants), trials)


class ComparisonReport(Report):
    """Tables, and a figure with three panels.

    Args:
        study: from `plan`.
        placement: settings of the tests over time steps, such as ``device``.
        say: prints a line to the user.
    """

    def __init__(self, study: Study, placement: dict[str, Any], say: Callable[[str], None] = print) -> None:
        super().__init__(study)
        self._placement = placement
        self._say = say
        self._unreadable: set[Path] = set()

    def text(self, rows: Sequence[Row]) -> list[list[str]]:
        """The table of rules, and one of accuracy over time steps."""
        methods, base = _by_rule(rows), self.study.base
        table = [["rule", *RESULT_HEADING, "seconds per epoch"]]
        for rule, (main, *_) in methods.items():
            seconds = "-" if main.summary is None else f"{main.summary.seconds_per_epoch:.1f}"
            table.append([rule, *result_cells(main), seconds])
        blocks = [aligned(table)]
        read = {rule: self._over_time(main) for rule, (main, *_) in methods.items()}
        if any(read.values()):
            lines = [[f"read after step, trained with {base.steps}", *map(str, range(1, base.steps + 1))]]
            lines += [[rule, *map(per_cent, accuracy)] for rule, accuracy in read.items() if accuracy]
            blocks.append(aligned(lines))
        trained = {rule: _by_steps(of_rule) for rule, of_rule in methods.items() if len(of_rule) > 1}
        counts = sorted({row.config.steps for of_rule in trained.values() for row in of_rule})
        if counts:
            lines = [["last epoch, trained with steps", *map(str, counts)]]
            for rule, of_rule in trained.items():
                cells = {r.config.steps: spread(r.summary.last_mean, r.summary.last_std) for r in of_rule if r.summary}
                lines.append([rule, *(cells.get(steps, "-") for steps in counts)])
            blocks.append(aligned(lines))
        blocks.append(
            [
                settings_line(base),
                "Equal for all rules: data and their order, layers and initial weights, optimizer, learning rate,",
                "schedule and clipping; for spiking rules also forward pass, time steps, loss and readout. The ANN is",
                "trained by cross entropy and has no time. Seconds are training time without tests, including",
                "compilation in the first epoch.",
            ]
        )
        return blocks

    def numbers(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Curves by rule: mean accuracy over epochs and seconds, after each step, and by number of trained steps."""
        curves = {}
        for rule, of_rule in _by_rule(rows).items():
            seconds, accuracy = _over_seconds(of_rule[0])
            trained = {row.config.steps: summary_as_dict(row.summary) for row in _by_steps(of_rule)}
            curves[rule] = {
                "accuracy_over_epochs": [100 * share for share in accuracy],
                "seconds_over_epochs": seconds,
                "accuracy_over_time": [100 * share for share in self._over_time(of_rule[0])],
                "trained_with_steps": trained if rule != "ann" else {},
            }
        return {"curves": curves}

    def draw(self, path: Path, rows: Sequence[Row]) -> None:
        """Accuracy over epochs, over time steps, and over seconds of training."""
        figure = new_figure("the figure of the comparison", 13.5, 4.4)
        ticker = require("matplotlib.ticker", "train", "the figure of the comparison")
        base = self.study.base
        figure.suptitle(f"{base.dataset}  {base.arch}, {base.steps} steps, {base.epochs} epochs")
        epochs_axes, steps_axes, seconds_axes = figure.subplots(1, 3)
        trained_elsewhere = False
        late: list[float] = []
        for number, (rule, of_rule) in enumerate(_by_rule(rows).items()):
            color, main = f"C{number}", of_rule[0]
            if main.results:
                late += draw_accuracies(epochs_axes, main.results, color=color)
                seconds, accuracy = _over_seconds(main)
                label = f"{_TITLES.get(rule, rule)}: {result_cells(main)[2]}"
                marker = "o-" if len(seconds) <= 10 else "-"
                seconds_axes.plot(seconds, [100 * a for a in accuracy], marker, ms=3, color=color, label=label)
            trained_elsewhere |= self._draw_steps(steps_axes, of_rule, color)
        steps_axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
        steps_axes.set_xlabel("time steps" + (": solid trained with, dashed read after" if trained_elsewhere else ""))
        seconds_axes.set_xlabel("seconds of training")
        for axes in (steps_axes, seconds_axes):
            axes.set_ylabel("test accuracy (%)")
            axes.grid(alpha=0.3)
        seconds_axes.set_xscale("log")
        seconds_axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        if late:
            fit_accuracies(epochs_axes, late)
            fit_accuracies(seconds_axes, late)
        names = seconds_axes.get_legend_handles_labels()
        figure.legend(*names, title="mean of best epochs (%)", loc="outside lower center", ncols=4, frameon=False)
        save_figure(path, figure)

    def _draw_steps(self, axes: Any, rows: list[Row], color: str) -> bool:
        """Draw one rule over time steps; returns whether it was also trained with other numbers of steps."""
        main = rows[0]
        if main.config.rule == "ann":
            if main.summary is not None:
                axes.axhline(100 * main.summary.last_mean, color=color, ls=":")
            return False
        trained = _by_steps(rows) if len(rows) > 1 else []
        read = [100 * share for share in self._over_time(main)]
        axes.plot(range(1, len(read) + 1), read, "o--" if trained else "o-", ms=3, color=color)
        if trained:
            summaries = [row.summary for row in trained if row.summary is not None]
            means = [100 * summary.last_mean for summary in summaries]
            deviations = [100 * (summary.last_std or 0.0) for summary in summaries]
            steps = [row.config.steps for row in trained]
            axes.errorbar(steps, means, yerr=deviations, fmt="s-", capsize=3, color=color)
        return bool(trained)

    def _over_time(self, row: Row) -> list[float]:
        """Mean over complete trials of the accuracy after each step; empty if there is none."""
        if row.config.rule == "ann":
            return []
        read = []
        for result in row.results:
            if result.complete and result.folder not in self._unreadable:
                try:
                    read.append(accuracy_over_time.of_trial(result, self._placement))
                except TRIAL_ERRORS as error:
                    self._unreadable.add(result.folder)  # report the error once and do not try again
                    self._say(f"{result.trial}: {error}")
        return [statistics.fmean(shares) for shares in zip(*read, strict=True)]


def _by_rule(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each rule, first the one with the study's number of steps."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.config.rule, []).append(row)
    return grouped


def _by_steps(rows: Sequence[Row]) -> list[Row]:
    """Rows with results, by number of steps."""
    return sorted((row for row in rows if row.results), key=lambda row: row.config.steps)


def _over_seconds(row: Row) -> tuple[list[float], list[float]]:
    """Mean training time until the end of each epoch, and mean accuracy then, over epochs that all trials have."""
    if not row.results:
        return [], []
    passed = [list(itertools.accumulate(metrics["seconds"] for metrics in r.history)) for r in row.results]
    seconds = [statistics.fmean(values) for values in zip(*passed, strict=False)]
    accuracy = [statistics.fmean(values) for values in zip(*(r.accuracies for r in row.results), strict=False)]
    return seconds, accuracy
