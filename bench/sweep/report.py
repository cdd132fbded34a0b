"""The output of `bench sweep`: tables, scaling exponents, JSON, a figure, and changes since an earlier run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.common.tables import aligned

from .contenders import OURS

FLOOR = "floor"
GRAPH = ", graph"
"""Suffix of the device where a step is one CUDA graph."""
CHANNELS_LAST = ", channels last"
"""Suffix of the device where images are channels last."""

#: Two rows with these equal measure the same thing.
IDENTITY = ("what", "mode", "name", "steps", "batch", "neurons", "dtype", "device", "rule")
AXES = {"steps": "time steps T", "batch": "samples", "neurons": "neurons per sample"}


@dataclass(frozen=True)
class Row:
    """One contender at one size.

    Args:
        what: one of `bench.sweep.works.WHAT`.
        mode: one of `bench.sweep.works.MODES`.
        name: contender, or ``floor``.
        steps, batch, neurons: the size; neurons per sample, None for networks.
        dtype: ``fp32``, ``fp16`` or ``bf16``.
        device: its type, with `GRAPH` or `CHANNELS_LAST`.
        rule: learning rule, used by this package only.
        seconds: median per step.
        per_neuron_step: nanoseconds.
        peak: bytes; None if not measured.
    """

    what: str
    mode: str
    name: str
    steps: int
    batch: int
    neurons: int | None
    dtype: str
    device: str
    rule: str
    seconds: float
    per_neuron_step: float
    peak: int | None

    @property
    def identity(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in IDENTITY)


def table(rows: Sequence[Row]) -> str:
    """A table of one size, with ratios to this package and to the floor."""
    by_name = {row.name: row for row in rows}
    ours, floor = by_name.get(OURS), by_name[FLOOR]
    first = rows[0]
    size = f"{first.mode}, T = {first.steps}, batch {first.batch}, {first.dtype}, {first.device}"
    size += f", {first.neurons:,} neurons per sample" if first.neurons is not None else ""
    heads = ["", "ms", "ns/neuron-step", f"times {OURS}", "times floor", "peak MB"]
    lines = []
    for row in rows:
        lines.append(
            [
                row.name, f"{1e3 * row.seconds:.2f}", f"{row.per_neuron_step:.2f}",
                f"{row.seconds / ours.seconds:.2f}" if ours else "-", f"{row.seconds / floor.seconds:.2f}",
                "-" if row.peak is None else f"{row.peak / 1e6:.1f}",
            ]
        )  # fmt: skip
    return f"{size}\n{aligned(heads, lines)}"


def swept(rows: Iterable[Row], axis: str) -> dict[tuple[Any, ...], list[Row]]:
    """Groups of several rows that differ only in ``axis``."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        rest = tuple(getattr(row, name) for name in IDENTITY if name != axis)
        groups.setdefault(rest, []).append(row)
    return {rest: sorted(group, key=lambda row: getattr(row, axis)) for rest, group in groups.items() if len(group) > 1}


def exponents(rows: Sequence[Row]) -> list[str]:
    """Scaling exponent for each swept axis: slope of a line through log time over log size."""
    lines = []
    for axis, label in AXES.items():
        for group in swept(rows, axis).values():
            x = np.log([getattr(row, axis) for row in group])
            slope = np.polyfit(x, np.log([row.seconds for row in group]), 1)[0]
            row = group[0]
            held = [f"{name} {getattr(row, name)}" for name in AXES if name != axis and getattr(row, name) is not None]
            ends = f"{getattr(group[0], axis)} to {getattr(group[-1], axis)}"
            lines.append(
                f"{row.name}, {row.mode}, {row.dtype}: exponent {slope:.2f} in {label}, {ends} ({', '.join(held)})"
            )
    return lines


def as_json(rows: Sequence[Row], machine: str) -> dict[str, Any]:
    """The JSON report, in seconds and bytes."""
    return {"machine": machine, "rows": [asdict(row) for row in rows]}


def earlier_rows(old: dict[str, Any]) -> list[Row]:
    """The rows of a report; raises if rows or machine are missing."""
    str(old["machine"])
    return [Row(**each) for each in old["rows"]]


def compared(rows: Sequence[Row], old: dict[str, Any], slower: float) -> tuple[list[str], bool]:
    """Lines comparing this package's rows with an earlier report, and whether any is over ``slower`` times as slow."""
    earlier = {row.identity: row for row in earlier_rows(old)}
    lines = [f"compared with {old['machine']}"]
    worse = False
    for row in rows:
        before = earlier.get(row.identity)
        if row.name != OURS or before is None:
            continue
        change = row.seconds / before.seconds
        worse |= change > slower
        note = f"  more than {slower:g} times as slow" if change > slower else ""
        size = f"{row.what}, {row.mode}, T = {row.steps}, batch {row.batch}, neurons {row.neurons}, {row.dtype}"
        lines.append(f"{size}: {1e3 * before.seconds:.2f} ms then, {1e3 * row.seconds:.2f} ms now, {change:.2f}{note}")
    if len(lines) == 1:
        lines.append("none of its rows was measured now")
    return lines, worse


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """A PNG: time over each swept axis (log-log), and bars of the ratios at one size."""
    from matplotlib.figure import Figure

    axes_swept = [axis for axis in AXES if swept(rows, axis)]
    modes = list(dict.fromkeys(row.mode for row in rows))
    names = list(dict.fromkeys(row.name for row in rows))
    figure = Figure(figsize=(5.2 * (len(axes_swept) + 1), 4.2 * len(modes)), layout="constrained")
    grid = figure.subplots(len(modes), len(axes_swept) + 1, squeeze=False)
    for line, mode in zip(grid, modes, strict=True):
        of_mode = [row for row in rows if row.mode == mode]
        for panel, axis in zip(line, axes_swept, strict=False):
            _draw_lines(panel, of_mode, axis, names)
            panel.set_title(mode, fontsize="medium")
        _draw_bars(line[-1], of_mode, names)
    figure.suptitle(title.replace(": ", "\n", 1).replace(", torch", "\ntorch", 1), fontsize="medium")
    figure.savefig(path, dpi=120)


def _color(name: str, names: list[str]) -> str:
    colors = [color for color in range(10) if color != 7]  # 7 is grey, like the floor
    return "0.5" if name == FLOOR else f"C{colors[names.index(name) % len(colors)]}"


def _draw_lines(panel: Any, rows: list[Row], axis: str, names: list[str]) -> None:
    labelled = set()
    for group in swept(rows, axis).values():
        name = group[0].name
        style = {"color": _color(name, names), "linestyle": "--" if name == FLOOR else "-"}
        label = None if name in labelled else name
        labelled.add(name)
        points = [(getattr(row, axis), 1e3 * row.seconds) for row in group]
        panel.plot(*zip(*points, strict=True), label=label, marker="o", markersize=3, **style)
    panel.set(xscale="log", yscale="log", xlabel=AXES[axis], ylabel="ms per step")
    panel.grid(alpha=0.3, which="both")
    panel.legend(fontsize="x-small")


def _draw_bars(panel: Any, rows: list[Row], names: list[str]) -> None:
    """Each contender's time over this package's, at the largest size among those with the most rows."""
    by_size: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        by_size.setdefault((row.steps, row.batch, row.neurons or 0, row.dtype), []).append(row)
    size = max(by_size, key=lambda each: (len(by_size[each]), each))
    shown = by_size[size]
    ours = next((row.seconds for row in shown if row.name == OURS), shown[-1].seconds)
    ratios = [row.seconds / ours for row in shown]
    panel.barh([row.name for row in shown], ratios, color=[_color(row.name, names) for row in shown])
    for row_number, ratio in enumerate(ratios):
        panel.annotate(f" {ratio:.2f}", (ratio, row_number), va="center", fontsize="small")
    panel.invert_yaxis()
    panel.margins(x=0.15)
    panel.axvline(1, color="0.3", lw=0.8)
    steps, batch, neurons, dtype = size
    place = (
        f"{shown[0].mode}: T = {steps}, batch {batch}" + (f", {neurons:,} neurons" if neurons else "") + f", {dtype}"
    )
    panel.set_title(place, fontsize="medium")
    panel.set_xlabel(f"time, {OURS} = 1")
