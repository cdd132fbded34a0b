"""``python -m bench gpu``: every kernel, whole layers and the paper's networks, measured on a GPU.

First a gate: the kernels' results are compared with the CPU path, and no time is printed if they disagree. Then the
bandwidth of a copy is measured, which the kernels are held against. Times are the device's own, by events; caches are
emptied before each run of a kernel or a layer, and training steps follow one another. Without a GPU the command exits
with status 2; ``--dry-run`` lists the cases and the bytes that each must move, on any machine.
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
from bench.common.events import Clock, clock_of, copy_bandwidth, flusher, measure
from bench.common.peak import peak_memory
from bench.common.tables import write_json
from bench.static.hardware import device_named
from tssl_triton.operators.fused import has_kernels

from . import fused_gate as gpu_fused_gate
from . import report as gpu_report
from .cases import NEURON_STEPS, Case, all_cases, plan, short
from .gate import complaints
from .layers import ratios
from .prediction import COPY, LABELS, MODEL, Model, predicted

WRONG, NO_DEVICE = 1, 2
"""Exit statuses."""


def measured(
    case: Case, device: torch.device, clock: Clock, rounds: int, bandwidth: float, model: Model | None = None
) -> gpu_report.Row:
    """Prepare a case, time it, and leave nothing of it on the device."""
    work = case.prepare(device)
    time = measure(work, clock, rounds, flusher(device) if case.flushed else None)
    prediction = predicted(case, bandwidth, model)
    row = gpu_report.Row(
        case.name,
        short(case.dtype),
        case.steps,
        case.neurons,
        time,
        case.bytes(),
        prediction.seconds if prediction else None,
        peak_memory(work, device) if device.type == "cuda" else None,
        prediction.label if prediction else None,
    )
    del work
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return row


def why_not(device: torch.device, command: str) -> str:
    """What is missing for a measurement on ``device``; empty if nothing is."""
    if device.type != "cuda":
        return ""
    if not torch.cuda.is_available():
        return f"python -m bench {command} needs a CUDA or ROCm device, and torch {torch.__version__} sees none"
    count = torch.cuda.device_count()
    index = device.index or 0
    return "" if index < count else f"device {str(device)!r} is not there: torch sees {count}"


def run(arguments: argparse.Namespace) -> None:
    device = arguments.device
    cases = [case for case in all_cases(device, arguments.neuron_steps, arguments.batch) if arguments.only in case.name]
    if arguments.dry_run:
        print(plan(cases))
        return
    if missing := why_not(device, "gpu"):
        print(f"{missing}; --dry-run lists what would be measured", file=sys.stderr)
        sys.exit(NO_DEVICE)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
    # The CPU's answers are those of a few neurons, not worth minutes of compiling.
    with mock.patch.dict(os.environ, TSSL_CPU="eager"):
        wrong = complaints(device)
        if has_kernels(device):
            wrong += gpu_fused_gate.complaints(device)
    if wrong:
        print("results disagree with the CPU path; no times are printed for wrong results:", file=sys.stderr)
        print("\n".join(wrong), file=sys.stderr)
        sys.exit(WRONG)
    print("results agree with the CPU path")

    clock = clock_of(device)
    machine = gpu_report.machine(device)
    bandwidth = copy_bandwidth(device, clock, arguments.rounds, arguments.copy_bytes)
    print(", ".join(f"{key} {value}" for key, value in machine.items() if value is not None))
    print(f"copy within the device's memory: {bandwidth / 1e9:,.0f} GB/s; predicted by {COPY}: {LABELS[COPY]}")
    known = device_named(machine.get("name", ""), machine.get("multiprocessors", 0))
    model = Model.of(cases, known) if known and not arguments.no_model else None
    if model:
        print(f"predicted by {MODEL}: {LABELS[MODEL]}, {model.device.name}: {model.device.source}")
    rows: list[gpu_report.Row] = []
    failed: list[str] = []
    for number, case in enumerate(cases, 1):
        label = f"{case.name}, {short(case.dtype)}, T = {case.steps}"
        print(f"{number}/{len(cases)} {label}", file=sys.stderr)
        try:
            rows.append(measured(case, device, clock, arguments.rounds, bandwidth, model))
        except RuntimeError as error:
            # One case too large for the device must not cost the others.
            failed.append(f"{label}: {error}")
        if arguments.json:
            # After each case: what was measured outlives an interruption.
            whole = gpu_report.report(rows, failed, machine, bandwidth, arguments.rounds, LABELS)
            write_json(arguments.json, whole)
    print(gpu_report.table(rows, bandwidth))
    if compared := ratios(rows):
        print(f'\ncomposed layers by fused ones, times; * where fused="auto" fuses\n{compared}')
    if arguments.png:
        title = f"{machine.get('name', machine['device'])}, copy {bandwidth / 1e9:,.0f} GB/s, {machine['commit'][:12]}"
        gpu_report.draw(rows, bandwidth, title, arguments.png)
    if failed:
        print("not measured:", *failed, sep="\n", file=sys.stderr)
        sys.exit(WRONG)


def add_to(commands: Any) -> None:
    count, file = options.count, options.output
    parser = commands.add_parser("gpu", help=__doc__.splitlines()[0], description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="list the cases and their bytes, measure nothing")
    parser.add_argument(
        "--device", type=options.device, default="cuda", help="cuda or cuda:N; cpu rehearses the command, for its tests"
    )
    parser.add_argument("--rounds", type=count, default=100, help="runs of each case")
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases whose name contains TEXT")
    parser.add_argument(
        "--neuron-steps", type=count, default=NEURON_STEPS, help="size of the kernels' cases, T times N"
    )
    parser.add_argument("--batch", type=count, default=50, help="batch of the layers' and networks' cases")
    parser.add_argument("--copy-bytes", type=count, default=1 << 30, help="size of the copy that gives the bandwidth")
    parser.add_argument("--no-model", action="store_true", help="predict by the copy alone, without compiling to count")
    parser.add_argument(
        "--json",
        nargs="?",
        type=file,
        const=Path("bench-gpu.json"),
        metavar="FILE",
        help="also write a report",
    )
    parser.add_argument(
        "--png", nargs="?", type=file, const=Path("bench-gpu.png"), metavar="FILE", help="also draw a figure"
    )
    parser.set_defaults(run=run)
