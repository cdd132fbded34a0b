"""``python -m bench static``: kernels compiled for GPUs, without a GPU, and their predicted times.

Registers, spills, shared memory, load and store widths and instructions per neuron-step are read from the machine
code. Bytes per neuron-step are counted while Triton's interpreter runs the kernel. Both give a predicted time; nothing
is timed. docs/performance.md explains the table and the model's limits.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from typing import Any

from bench.common import options
from bench.common.tables import write_json

from . import peers, table
from .cases import all_cases
from .examined import LABEL, Setting, measure
from .hardware import ARCHITECTURES, DEVICES
from .problem import DTYPES
from .roofline import draw

STEPS = (1, 5, 8, 32, 100)


def chosen(arguments: argparse.Namespace) -> list[Setting]:
    """The settings that the options select."""
    cases = all_cases()
    wanted = arguments.kernels or list(cases)
    unknown = [name for name in wanted if not any(name in case for case in cases)]
    if unknown:
        raise SystemExit(f"--kernels: no kernel is called {unknown[0]!r}; kernels are {', '.join(cases)}")
    return [
        Setting(name, steps, dtype, target)
        for name, case in cases.items()
        if any(part in name for part in wanted)
        for dtype in arguments.dtypes
        if dtype in case.dtypes
        for steps in arguments.steps
        for target in arguments.targets
        if target in case.targets
    ]


def run(arguments: argparse.Namespace) -> None:
    _, missing = peers.load()
    print(*missing, sep="\n", end="\n" if missing else "", file=sys.stderr)
    rows = measure(chosen(arguments), arguments.jobs)
    print(table.markdown(rows) if arguments.markdown else table.text(rows))
    if arguments.json:
        devices = [asdict(device) for device in DEVICES]
        report = {"label": LABEL, "devices": devices, "rows": [asdict(row) for row in rows]}
        write_json(arguments.json, report)
    if arguments.png:
        draw(rows, arguments.png)


def add_to(commands: Any) -> None:
    count, file = options.count, options.output
    parser = commands.add_parser("static", help=__doc__.splitlines()[0], description=__doc__)
    parser.add_argument("--targets", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--steps", type=count, nargs="+", default=list(STEPS), metavar="T", help="time steps")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--kernels", nargs="+", metavar="NAME", help="only kernels whose name contains NAME")
    parser.add_argument("--jobs", type=count, default=os.cpu_count() or 1, help="compiler processes")
    parser.add_argument("--json", type=file, metavar="FILE", help="also write all figures to FILE")
    parser.add_argument("--png", type=file, metavar="FILE", help="also plot the rooflines; needs matplotlib")
    parser.add_argument("--markdown", action="store_true", help="print the tables for docs/performance.md")
    parser.set_defaults(run=run)
