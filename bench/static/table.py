"""The static report as text: compiled figures, modelled figures, and the sources of the devices' rates."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from bench.common.tables import aligned

from .examined import LABEL, Row
from .hardware import DEVICES

RELEASED_PROGRAM = "The authors' released program stores 16 bytes per neuron-step and has no Triton kernels to compile."


def text(rows: list[Row]) -> str:
    """Aligned columns."""
    tables = (aligned(*columns, left=2) for columns in (compiled(rows), modelled(rows)))
    return "\n\n".join([_title(), *tables, "\n".join(_notes())])


def markdown(rows: list[Row]) -> str:
    """The same as Markdown tables."""
    parts = [f"*{_title()}*", _pipes(*compiled(rows)), _pipes(*modelled(rows)), "\n".join(f"* {n}" for n in _notes())]
    return "\n\n".join(parts)


def compiled(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """One line per kernel, type, T and target: figures from the machine code."""
    header = ["kernel", "type", "T", "target", "regs", "spill B", "shared B", "warps", "occupancy", "loads", "stores"]
    header += ["instr/ns", "special/ns", "code kB"]
    lines = []
    for row in rows:
        s, c = row.setting, row.code
        lines.append(
            [
                s.case, s.dtype, str(s.steps), s.target, str(c.registers), str(c.spilled), str(c.shared), str(c.warps),
                f"{c.occupancy:.0%}", widths(c.loads), widths(c.stores), f"{c.instructions:.1f}", f"{c.special:.1f}",
                f"{c.code_bytes / 1024:.1f}",
            ]
        )  # fmt: skip
    return header, lines


def modelled(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """One line per kernel, type and T: bytes, and times predicted for the devices of the compiled targets."""
    names = [d.name for d in DEVICES if any(d.name in row.milliseconds for row in rows)]
    header = ["kernel", "type", "T", "bytes/ns", "compulsory", "checkpoints", "saved B/ns", "issue use H100"]
    header += [f"{name} ms" for name in names]
    merged: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        merged.setdefault((row.setting.case, row.setting.dtype, row.setting.steps), []).append(row)
    lines = []
    for (case, dtype, steps), group in merged.items():
        first = group[0]
        times = {name: value for row in group for name, value in row.milliseconds.items()}
        use = next((row.issue_use for row in group if row.issue_use is not None), None)
        lines.append(
            [
                case, dtype, str(steps), f"{first.bytes:.2f}", f"{first.compulsory:.2f}", f"{first.checkpoints:.2f}",
                "" if first.saved is None else f"{first.saved:.2f}", "" if use is None else f"{use:.0%}",
                *(f"{times[name]:.2f}" if name in times else "" for name in names),
            ]
        )  # fmt: skip
    return header, lines


def widths(accesses: dict[int, float]) -> str:
    """A thread's accesses by width in bits: ``128 x 5, 64 x 1``."""
    return ", ".join(f"{8 * width} x {number:g}" for width, number in sorted(accesses.items(), reverse=True))


def _title() -> str:
    return f"{LABEL}; triton {version('triton')}; per neuron-step (ns), times in ms per 10^9 neuron-steps"


def _notes() -> list[str]:
    limits = "Times: the longest of bytes, instructions, special functions and matrix products, each at its peak rate."
    sources = [
        f"{d.name}: {d.bandwidth / 1e12:.2f} TB/s, {d.multiprocessors} x {d.clock / 1e9:.2f} GHz, "
        f"{d.issue:g} warp instructions/clock, {d.matrix / 1e12:.0f} 16-bit TFLOPS of the matrix units; {d.source}"
        for d in DEVICES
    ]
    return [limits, RELEASED_PROGRAM, *sources]


def _pipes(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---" if k < 2 else "--:" for k in range(len(header))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))
