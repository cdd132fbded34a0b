"""``python -m bench gpu``: kernels, layers and the paper's networks, timed on a GPU.

Results are first compared with the CPU path; if they disagree, no times are printed. Times are the device's own, by
events. The L2 cache is flushed before each run of a kernel or layer; training steps follow one another. The bandwidth
of a copy is measured for comparison. Without a GPU the exit status is 2; ``--dry-run`` lists the cases and the bytes
that each must move, on any machine.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from bench.common import options
from bench.common.tables import write_json
from bench.common.timing import Clock, clock_of, copy_bandwidth, flusher, measure, peak_memory
from bench.static.hardware import device_named
from bench.static.problem import dtype_name

from . import report
from .cases import NEURON_STEPS, Case, all_cases, plan
from .gate import mismatches
from .layers import ratios
from .prediction import COPY, LABELS, MODEL, Model, predicted

WRONG, NO_DEVICE = 1, 2
"""Exit statuses."""


def measured(
    case: Case, device: torch.device, clock: Clock, rounds: int, bandwidth: float, model: Model | None = None
) -> report.Row:
    """Prepare a case, time it, and free its memory."""
    work = case.prepare(device)
    time = measure(work, clock, rounds, flusher(device) if case.flushed else None)
    prediction = predicted(case, bandwidth, model)
    seconds, basis = (prediction.seconds, prediction.label) if prediction else (None, None)
    peak = peak_memory(work, device) if device.type == "cuda" else None
    row = report.Row(
        case.name, dtype_name(case.dtype), case.steps, case.neurons, time, case.bytes(), seconds, peak, basis
    )
    del work
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return row


def run(arguments: argparse.Namespace) -> None:
    device = arguments.device
    cases = [case for case in all_cases(device, arguments.neuron_steps, arguments.batch) if arguments.only in case.name]
    if arguments.dry_run:
        print(plan(cases))
        return
    if missing := options.missing_device(device, "gpu"):
        print(f"{missing}; --dry-run lists the cases", file=sys.stderr)
        sys.exit(NO_DEVICE)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
    # On the CPU a few neurons run eagerly, which is faster than compiling loops for them.
    with mock.patch.dict(os.environ, TSSL_CPU="eager"):
        wrong = mismatches(device)
    if wrong:
        print("results disagree with the CPU path, so nothing is timed:", *wrong, sep="\n", file=sys.stderr)
        sys.exit(WRONG)
    print("results agree with the CPU path")

    clock = clock_of(device)
    machine = report.machine(device)
    bandwidth = copy_bandwidth(device, clock, arguments.rounds, arguments.copy_bytes)
    print(", ".join(f"{key} {value}" for key, value in machine.items() if value is not None))
    print(f"copy in device memory: {bandwidth / 1e9:,.0f} GB/s; predicted by {COPY}: {LABELS[COPY]}")
    known = device_named(machine.get("name", ""), machine.get("multiprocessors", 0))
    model = Model.of(cases, known) if known and not arguments.no_model else None
    if model:
        print(f"predicted by {MODEL}: {LABELS[MODEL]}, {model.device.name}: {model.device.source}")
    rows: list[report.Row] = []
    failed: list[str] = []
    for number, case in enumerate(cases, 1):
        label = f"{case.name}, {dtype_name(case.dtype)}, T = {case.steps}"
        print(f"{number}/{len(cases)} {label}", file=sys.stderr)
        try:
            rows.append(measured(case, device, clock, arguments.rounds, bandwidth, model))
        except RuntimeError as error:
            # Such as a case too large for the device; go on with the others.
            failed.append(f"{label}: {error}")
        if arguments.json:
            # After each case, so that an interruption loses nothing.
            whole = report.as_json(rows, failed, machine, bandwidth, arguments.rounds, LABELS)
            write_json(arguments.json, whole)
    print(report.table(rows, bandwidth))
    if compared := ratios(rows):
        print(f'\ntime of composed layers over fused ones; * where fused="auto" fuses\n{compared}')
    if arguments.png:
        title = f"{machine.get('name', machine['device'])}, copy {bandwidth / 1e9:,.0f} GB/s, {machine['commit'][:12]}"
        report.draw(rows, bandwidth, title, arguments.png)
    if failed:
        print("not measured:", *failed, sep="\n", file=sys.stderr)
        sys.exit(WRONG)


def add_to(commands: Any) -> None:
    count, file = options.count, options.output
    parser = commands.add_parser("gpu", help=__doc__.splitlines()[0], description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="list the cases and their bytes, and measure nothing")
    parser.add_argument(
        "--device", type=options.device, default="cuda", help="cuda or cuda:N; cpu is for testing this command"
    )
    parser.add_argument("--rounds", type=count, default=100, help="runs of each case")
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases whose name contains TEXT")
    parser.add_argument(
        "--neuron-steps", type=count, default=NEURON_STEPS, help="size of the kernels' cases, T times N"
    )
    parser.add_argument("--batch", type=count, default=50, help="batch size of layers and networks")
    parser.add_argument("--copy-bytes", type=count, default=1 << 30, help="size of the copy that measures bandwidth")
    parser.add_argument("--no-model", action="store_true", help="predict only by the copy, without compiling")
    parser.add_argument(
        "--json", nargs="?", type=file, const=Path("bench-gpu.json"), metavar="FILE", help="also write a report"
    )
    parser.add_argument(
        "--png", nargs="?", type=file, const=Path("bench-gpu.png"), metavar="FILE", help="also draw a figure"
    )
    parser.set_defaults(run=run)
