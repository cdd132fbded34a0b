"""``python -m bench sweep WHAT``: times this package and the alternatives, interleaved in one process.

WHAT is ``lif`` (neurons alone), ``linear`` or ``conv`` (one layer), or a network of the paper; ``--mode`` selects
training, its forward pass, or inference. Several values of ``--steps``, ``--batch`` or ``--neurons`` sweep over them.
Times are medians, with a scaling exponent for each sweep (1 = linear). Packages that are not installed (extra
``peers``) are named and left out. `bench/sweep/contenders.py` describes the alternatives, `bench/sweep/works.py` the
workloads and floors.

Peak memory is the most that a step allocates beyond what it held before: tensors on a CPU by PyTorch's profiler, on a
GPU by its allocator.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench.common import options
from bench.common.graphs import capture
from bench.common.tables import write_json
from bench.common.timing import interleaved, machine, peak_memory
from bench.static.problem import DTYPES, dtype_name
from tssl_triton.rules import RULES
from tssl_triton.training.presets import EXPERIMENTS

from .contenders import CONTENDERS, Contender, available
from .report import CHANNELS_LAST, FLOOR, GRAPH, Row, as_json, compared, draw, earlier_rows, exponents, table
from .works import IMAGE, INFERENCE, LIF, MODES, TRAINING, WHAT, Size, Step, floor, neuron_steps, work

NEURONS = {LIF: 25_088, "linear": 512, "conv": 16_384}
"""Default of ``--neurons``: 32 maps of 28x28, 512, and 64 maps of 16x16."""


def wrong_neurons(what: str, neurons: list[int]) -> str:
    """Why ``--neurons`` is invalid; empty if it is valid."""
    if neurons and what in EXPERIMENTS:
        return f"--neurons is for lif and layers: the network {what!r} has a fixed size"
    if what == "conv" and any(count % IMAGE**2 for count in neurons):
        return f"--neurons of conv must be multiples of {IMAGE**2} (maps of {IMAGE}x{IMAGE}), got {neurons}"
    return ""


def sizes(arguments: argparse.Namespace) -> Iterator[Size]:
    neurons = arguments.neurons or [NEURONS.get(arguments.what)]
    for steps, batch, count, name in itertools.product(arguments.steps, arguments.batch, neurons, arguments.dtype):
        yield Size(steps, batch, count, DTYPES[name], arguments.device, arguments.channels_last)


def measure(
    what: str, mode: str, contenders: list[Contender], size: Size, rule: str, rounds: int, memory: bool, graph: bool
) -> tuple[list[Row], list[str]]:
    """A row for the floor and each contender that can run this size, and a line for each that cannot.

    With ``graph`` each step is one CUDA graph.
    """

    def prepared(step: Step) -> Step:
        return capture(step, size.device) if graph else step

    steps: dict[str, Step] = {}
    failed = []
    for contender in contenders:
        if contender.bytes_out and (what, mode) != (LIF, INFERENCE):
            continue
        if contender.longest is not None and size.steps > contender.longest:
            failed.append(f"{contender.name} is run only up to T = {contender.longest}, not at {size.steps}")
            continue
        try:
            step = prepared(work(what, mode, contender, size, rule))
            step()
        except (RuntimeError, ValueError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            failed.append(f"{contender.name} failed at T = {size.steps}, {size.dtype}: {reason}")
        else:
            steps[contender.name] = step
    steps[FLOOR] = prepared(floor(what, mode, size))
    finish = torch.cuda.synchronize if size.device.type == "cuda" else None
    seconds = interleaved(steps, rounds, finish)
    where = size.device.type + (GRAPH if graph else "") + (CHANNELS_LAST if size.channels_last else "")
    dtype = dtype_name(size.dtype)
    count = neuron_steps(what, size)
    rows = []
    for name, step in steps.items():
        peak = peak_memory(step, size.device) if memory and name != FLOOR and not graph else None
        times = seconds[name], 1e9 * seconds[name] / count, peak
        rows.append(Row(what, mode, name, size.steps, size.batch, size.neurons, dtype, where, rule, *times))
    return rows, failed


def run(arguments: argparse.Namespace) -> int:
    device = arguments.device
    if arguments.graph and device.type != "cuda":
        sys.exit(f"--graph captures CUDA graphs and needs --device cuda, got {str(device)!r}")
    if problem := wrong_neurons(arguments.what, arguments.neurons or []):
        sys.exit(problem)
    earlier = options.earlier_report("--compare", arguments.compare, earlier_rows) if arguments.compare else None
    if missing_device := options.missing_device(device, "sweep"):
        sys.exit(missing_device)
    contenders, missing = available(arguments.implementations)
    for line in missing:
        print(line)
    where = machine(device)
    print(f"{arguments.what} on {where}; medians of {arguments.rounds} interleaved rounds")
    print(f"THP_MEM_ALLOC_ENABLE={os.environ.get('THP_MEM_ALLOC_ENABLE')} (1: huge pages for new memory)")
    for contender in contenders:
        if contender.differs:
            print(f"{contender.name}: {contender.differs}")
    rows: list[Row] = []
    for mode, size in itertools.product(arguments.mode, sizes(arguments)):
        measured, failed = measure(
            arguments.what, mode, contenders, size, arguments.rule, arguments.rounds, arguments.memory, arguments.graph
        )  # fmt: skip
        rows += measured
        print(f"\n{table(measured)}", flush=True)
        for line in failed:
            print(line, flush=True)
        if arguments.json:
            write_json(arguments.json, as_json(rows, where))
    print("".join(f"\n{line}" for line in exponents(rows)))
    if arguments.png:
        draw(rows, f"{arguments.what}: {where}", arguments.png)
    if earlier is None:
        return 0
    lines, slower = compared(rows, earlier, arguments.slower)
    print("\n".join(lines))
    return 1 if slower else 0


def add_to(commands: Any) -> None:
    count, file = options.count, options.output
    parser = commands.add_parser("sweep", help=__doc__.splitlines()[0], description=__doc__)
    parser.add_argument("what", choices=WHAT, metavar="WHAT", help=", ".join(WHAT))
    parser.add_argument("--mode", nargs="+", choices=MODES, default=[TRAINING])
    parser.add_argument("--steps", nargs="+", type=count, default=[5], metavar="T", help="time steps (default: 5)")
    parser.add_argument("--batch", nargs="+", type=count, default=[50], metavar="B", help="samples (default: 50)")
    parser.add_argument(
        "--neurons", nargs="+", type=count, metavar="N",
        help=f"neurons per sample, for lif and layers; conv needs multiples of {IMAGE**2}",
    )  # fmt: skip
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["fp32"], help="tensor type (default: fp32)")
    parser.add_argument("--device", type=options.device, default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--rule", choices=RULES, default=RULES[0], help="this package's learning rule (default: tssl)")
    parser.add_argument(
        "--implementations", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME",
        help=f"of {', '.join(CONTENDERS)} (default: all)",
    )  # fmt: skip
    parser.add_argument("--rounds", type=count, default=7, help="rounds of one turn per contender (default: 7)")
    parser.add_argument("--memory", action="store_true", help="also measure peak memory")
    parser.add_argument("--channels-last", action="store_true", help="images in channels-last format, for all")
    parser.add_argument("--graph", action="store_true", help="run each step as one CUDA graph; needs a GPU")
    parser.add_argument("--json", type=file, metavar="FILE", help="also write the rows to FILE")
    parser.add_argument("--png", type=file, metavar="FILE", help="also plot the rows to FILE")
    parser.add_argument(
        "--compare", type=Path, metavar="FILE",
        help="compare with an earlier --json; exit status 1 if this package has become slower",
    )  # fmt: skip
    parser.add_argument(
        "--slower", type=float, default=1.2, metavar="X", help="slowdown that --compare reports (default: 1.2)"
    )
    parser.set_defaults(run=lambda arguments: sys.exit(run(arguments)))
