"""The static report as a picture: where each kernel lies under the predicted roofline of each machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .hardware import DEVICES, Device
from .static import LABEL, Row

MARKERS = {"fp32": "o", "fp16": "^", "bf16": "s"}


def draw(rows: Sequence[Row], file: str) -> None:
    """One panel per device: the rate at which memory is kept busy, against instructions per byte moved.

    Left of the ridge the memory is the limit and the rate is the whole bandwidth; right of it instructions are. A
    point below the roof is held back by the special-function units.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    shown = [d for d in DEVICES if any(d.name in row.milliseconds for row in rows)]
    columns = min(3, len(shown) + 1)
    height = -(-(len(shown) + 1) // columns)
    figure, axes = pyplot.subplots(
        height, columns, figsize=(5.4 * columns, 4.2 * height + 0.6), squeeze=False, layout="constrained"
    )
    palette = pyplot.get_cmap("tab20" if len({row.setting.case for row in rows}) > 10 else "tab10")
    colors = {name: palette(k) for k, name in enumerate(dict.fromkeys(row.setting.case for row in rows))}
    for axis, device in zip(axes.flat, shown, strict=False):
        _panel(axis, device, [row for row in rows if device.name in row.milliseconds], colors)
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    dot: dict[str, Any] = {"linestyle": "none", "markersize": 8, "markeredgecolor": "white"}
    handles = [Line2D([], [], color=color, marker="o", label=name, **dot) for name, color in colors.items()]
    dtypes = dict.fromkeys(row.setting.dtype for row in rows)
    handles += [Line2D([], [], color="0.4", marker=MARKERS[d], label=d, **dot) for d in dtypes]
    steps = ", ".join(str(t) for t in dict.fromkeys(row.setting.steps for row in rows))
    axes.flat[len(shown)].legend(
        handles=handles, loc="center", frameon=False, fontsize=11, title=f"T = {steps}", title_fontsize=11
    )
    figure.suptitle(f"Predicted rooflines: {LABEL}", fontsize=15, fontweight="bold")
    figure.savefig(file, dpi=130)
    pyplot.close(figure)


def _panel(axis: Any, device: Device, rows: Sequence[Row], colors: dict[str, Any]) -> None:
    # Instructions per byte at which both take equally long.
    ridge = device.byte_seconds(1.0) / device.issue_seconds(1.0)
    peak = device.bandwidth / 1e12
    low, high = 0.4, 24.0
    xs = [low * (high / low) ** (k / 200) for k in range(201)]
    roof = [peak * min(1.0, ridge / x) for x in xs]
    axis.fill_between(xs, roof, color="0.95")
    axis.plot(xs, roof, color="0.25", linewidth=1.5)
    axis.axvline(ridge, color="0.6", linestyle=":", linewidth=1)
    axis.annotate("memory-bound", (ridge, 0), (-6, 6), textcoords="offset points", ha="right", color="0.45")
    axis.annotate("issue-bound", (ridge, 0), (6, 6), textcoords="offset points", ha="left", color="0.45")
    for row in rows:
        moved = row.bytes + row.checkpoints
        rate = moved / row.milliseconds[device.name]  # 10^9 bytes per millisecond: TB/s
        axis.plot(
            row.code.vector / moved, rate, MARKERS[row.setting.dtype], color=colors[row.setting.case],
            markersize=8, markeredgecolor="white", markeredgewidth=0.8, alpha=0.85, zorder=3,
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    axis.set_xticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
    axis.minorticks_off()
    axis.set_ylim(0, 1.15 * peak)
    axis.set_title(f"{device.name} ({device.architecture.target}), {peak:.2f} TB/s", fontsize=12)
    axis.set_xlabel("thread instructions per byte moved")
    axis.set_ylabel("predicted TB/s")
    axis.spines[["top", "right"]].set_visible(False)
