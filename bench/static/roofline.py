"""The static report as a figure: instruction time over memory time, for each kernel on each device.

This is a roofline drawn flat, with its ridge at 100 %. Left of it memory is the limit and a kernel runs at full
bandwidth; right of it the axis is its slowdown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .examined import LABEL, Row
from .hardware import DEVICES, Device

MARKERS = {"fp32": "o", "fp16": "^", "bf16": "s"}
LEAST, MOST = 0.02, 3.0  # of the axis, which is extended for kernels further right
OURS, PEER = "#1f5fa8", "#c2570c"


def draw(rows: Sequence[Row], file: Path) -> None:
    """A panel per device, a line per kernel, a point per type and number of steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    shown = [d for d in DEVICES if any(d.name in row.milliseconds for row in rows)]
    owners = {row.setting.case: row.owner for row in rows}
    figure, axes = pyplot.subplots(
        1, len(shown), figsize=(2.6 + 2.9 * len(shown), 2.0 + 0.34 * len(owners)), squeeze=False,
        layout="constrained", sharey=True,
    )  # fmt: skip
    for axis, device in zip(axes.flat, shown, strict=True):
        _panel(axis, device, [row for row in rows if device.name in row.milliseconds], list(owners))
    first = axes.flat[0]
    first.set_yticks(range(len(owners)), list(owners))
    for label, owner in zip(first.get_yticklabels(), owners.values(), strict=True):
        label.set_color(PEER if owner else OURS)
    first.set_ylim(len(owners) - 0.5, -0.5)
    figure.supxlabel(
        "instruction time / memory time (right of 100 %: slower than memory allows)", fontsize=10, x=0.01, ha="left"
    )
    steps = ", ".join(str(steps) for steps in dict.fromkeys(row.setting.steps for row in rows))
    figure.suptitle(f"Predicted limits, T = {steps}: {LABEL}", fontsize=13, fontweight="bold")
    handles: list[Any] = [
        Line2D([], [], color="0.35", marker=MARKERS[dtype], linestyle="none", label=dtype)
        for dtype in dict.fromkeys(row.setting.dtype for row in rows)
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), frameon=False)
    figure.savefig(file, dpi=130)
    pyplot.close(figure)


def use(device: Device, row: Row) -> float:
    """Time of the instructions (or special functions, if longer) over time of the bytes."""
    busy = max(device.issue_seconds(row.code.vector), device.special_seconds(row.code.special))
    return busy / device.byte_seconds(row.bytes + row.checkpoints)


def _panel(axis: Any, device: Device, rows: Sequence[Row], names: list[str]) -> None:
    most = max(MOST, 1.5 * max(use(device, row) for row in rows))
    axis.axvspan(LEAST, 1.0, color="#eaf3ea", zorder=0)
    axis.axvspan(1.0, most, color="#fbeceb", zorder=0)
    axis.axvline(1.0, color="0.35", linewidth=1.2, zorder=1)
    for row in rows:
        axis.plot(
            max(use(device, row), LEAST), names.index(row.setting.case), MARKERS[row.setting.dtype],
            color=PEER if row.owner else OURS, markersize=7, markeredgecolor="white", markeredgewidth=0.7, alpha=0.8,
            zorder=3, clip_on=False,
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_xlim(LEAST, most)
    ticks = [t for t in (0.1, 1.0, 10.0, 1000.0) if t < most]
    axis.set_xticks(ticks, [f"{100 * t:,.0f} %" if t <= 1 else f"{t:,.0f} x" for t in ticks])
    axis.minorticks_off()
    axis.grid(axis="y", color="white", linewidth=1.5, zorder=0.5)
    axis.tick_params(axis="y", length=0)
    axis.set_title(f"{device.name}\n{device.bandwidth / 1e12:.2f} TB/s, {device.architecture.target}", fontsize=10.5)
    axis.spines[["top", "right", "left"]].set_visible(False)
