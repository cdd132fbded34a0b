"""The output of `bench gpu`: machine, table, JSON report and figure."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton

from bench.common.tables import aligned
from bench.common.timing import Quantiles

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Row:
    """One measured case; times in seconds.

    Args:
        name: of the case.
        dtype: ``fp32``, ``fp16`` or ``bf16``.
        steps: time steps T.
        neurons: None for networks.
        time: percentiles over all runs.
        bytes: that must move; None where arithmetic is the limit.
        predicted: seconds; None without a prediction.
        peak: most bytes allocated by a run; None if unknown.
        basis: source of the prediction, a key of `bench.gpu.prediction.LABELS`.
    """

    name: str
    dtype: str
    steps: int
    neurons: int | None
    time: Quantiles
    bytes: int | None
    predicted: float | None
    peak: int | None
    basis: str | None = None

    @property
    def bandwidth(self) -> float | None:
        """Bytes per second."""
        return None if self.bytes is None else self.bytes / self.time.p50

    @property
    def of_prediction(self) -> float | None:
        """Measured time over predicted time."""
        return None if self.predicted is None else self.time.p50 / self.predicted

    @property
    def per_billion(self) -> float | None:
        """Seconds per 10^9 neuron-steps."""
        return None if self.neurons is None else 1e9 * self.time.p50 / (self.neurons * self.steps)


def table(rows: list[Row], bandwidth: float) -> str:
    """A table of the rows."""

    def scaled(value: float | None, factor: float, places: int) -> str:
        return "-" if value is None else f"{factor * value:,.{places}f}"

    heads = ["case", "type", "T", "p20 us", "p50 us", "p80 us", "predicted us", "by", "measured/predicted"]
    heads += ["GB/s", "of copy", "ms/1e9 neuron-steps", "peak MB"]
    lines = []
    for row in rows:
        share = None if row.bandwidth is None else row.bandwidth / bandwidth
        lines.append(
            [
                row.name, row.dtype, row.steps,
                *(scaled(value, 1e6, 1) for value in (row.time.p20, row.time.p50, row.time.p80, row.predicted)),
                row.basis or "-", scaled(row.of_prediction, 1, 2), scaled(row.bandwidth, 1e-9, 0), scaled(share, 1, 2),
                scaled(row.per_billion, 1e3, 2), scaled(row.peak, 1e-6, 1),
            ]
        )  # fmt: skip
    return aligned(heads, lines, left=2)


def as_json(
    rows: list[Row], failed: list[str], machine: dict[str, Any], bandwidth: float, rounds: int, labels: dict[str, str]
) -> dict[str, Any]:
    """The JSON report, in seconds, bytes and bytes per second; ``labels`` describe the predictions' sources."""
    derived = ("bandwidth", "of_prediction", "per_billion")
    return {
        "machine": machine,
        "copy_bandwidth": bandwidth,
        "rounds": rounds,
        "prediction": labels,
        "gate": "results agree with the CPU path",
        "rows": [asdict(row) | {name: getattr(row, name) for name in derived} for row in rows],
        "failed": failed,
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Device, versions and commit."""
    about: dict[str, Any] = {
        "device": str(device),
        "torch": str(torch.__version__),
        "triton": str(triton.__version__),
        "cuda": torch.version.cuda,
        "rocm": torch.version.hip,
        "python": platform.python_version(),
        "system": platform.platform(),
        "commit": commit(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        about |= {
            "name": properties.name,
            "arch": getattr(properties, "gcnArchName", f"sm_{properties.major}{properties.minor}"),
            "multiprocessors": properties.multi_processor_count,
            "memory": properties.total_memory,
            "l2": getattr(properties, "L2_cache_size", None),
            "driver": driver(),
        }
    return about


def commit() -> str:
    """The commit of this checkout, with ``+changes`` if files differ from it; ``unknown`` without git."""
    head = _output_of("git", "-C", str(ROOT), "rev-parse", "HEAD")
    if not head:
        return "unknown"
    return head + ("+changes" if _output_of("git", "-C", str(ROOT), "status", "--porcelain", "-uno") else "")


def driver() -> str:
    """Version of the NVIDIA or AMD driver, or ``unknown``."""
    nvidia = _output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    if nvidia:
        return nvidia.splitlines()[0]
    amd = Path("/sys/module/amdgpu/version")
    return amd.read_text().strip() if amd.exists() else "unknown"


def _output_of(*command: str) -> str:
    """A command's standard output; empty if it fails or is not installed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def draw(rows: list[Row], bandwidth: float, title: str, path: Path) -> None:
    """A PNG: each kernel's bandwidth over that of a copy, and the networks' training steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kernels = [row for row in rows if row.bandwidth is not None]
    networks = [row for row in rows if row.neurons is None]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5), layout="constrained")
    series = dict.fromkeys((row.name, row.dtype) for row in kernels)
    names = list(dict.fromkeys(name for name, _ in series))
    styles = {"fp32": "-", "fp16": "--", "bf16": ":"}
    for name, dtype in series:
        points = [(r.steps, (r.bandwidth or 0) / bandwidth) for r in kernels if (r.name, r.dtype) == (name, dtype)]
        look = {"marker": "o", "color": f"C{names.index(name)}", "label": f"{name}, {dtype}"}
        left.plot(*zip(*points, strict=True), styles.get(dtype, "-"), **look)
    left.axhline(1.0, color="grey", linewidth=0.8)
    left.set(xscale="log", xlabel="time steps T", ylabel="bandwidth / measured copy", ylim=(0, None))
    if series:
        left.legend(fontsize="x-small", ncols=2)
    right.barh([row.name for row in networks][::-1], [1e3 * row.time.p50 for row in networks][::-1])
    right.set(xlabel="ms per training step, median")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
