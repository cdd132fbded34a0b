"""``python -m bench sweep WHAT``: this package beside what a user would pick instead, on this machine.

WHAT is ``lif`` (the neuron alone), ``linear`` or ``conv`` (a layer), or a network of the paper; for learning, its
forward pass alone, or inference. Several numbers after ``--steps``, ``--batch`` or ``--neurons`` sweep over them. All
contenders of one size run in one process in turns, so that a noisy machine is fair to all; times are medians. What is
not installed is left out with a line that says so (extra ``peers``). `bench/sweep/contenders.py` says who they are
and what
they do differently, and `bench/sweep/works.py` what is timed and what the floor is.

Peak memory is what one step allocates beyond what it holds before: of tensors on a CPU as PyTorch's profiler reports
them, on a GPU as its allocator does. The exponent is the slope of log time over log size, 1 for a cost in proportion.
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
from bench.common.peak import peak_memory
from bench.common.tables import write_json
from bench.common.timing import interleaved, machine
from bench.gpu.command import why_not
from bench.static.cases import DTYPES
from tssl_triton.rules import RULES
from tssl_triton.training.presets import EXPERIMENTS

from .contenders import CONTENDERS, Contender, available
from .report import CHANNELS_LAST, FLOOR, GRAPH, Row, compared, draw, earlier_rows, exponents, report, table
from .works import IMAGE, INFERENCE, LIF, MODES, TRAINING, WHAT, Size, Step, floor, neuron_steps, work

NEURONS = {LIF: 25_088, "linear": 512, "conv": 16_384}
"""Neurons of a sample where ``--neurons`` does not say: 32 maps of 28x28, 512, and 64 maps of 16x16."""


def wrong_neurons(what: str, neurons: list[int]) -> str:
    """What is wrong with ``--neurons``; empty if nothing is."""
    if neurons and what in EXPERIMENTS:
        return f"--neurons is of lif and layers: the network {what!r} has its own"
    if what == "conv" and any(count % IMAGE**2 for count in neurons):
        return f"--neurons of conv must be multiples of {IMAGE**2}, maps of {IMAGE}x{IMAGE}, got {neurons}"
    return ""


def sizes(arguments: argparse.Namespace) -> Iterator[Size]:
    neurons = arguments.neurons or [NEURONS.get(arguments.what)]
    for steps, batch, count, name in itertools.product(arguments.steps, arguments.batch, neurons, arguments.dtype):
        yield Size(steps, batch, count, DTYPES[name], arguments.device, arguments.channels_last)


def measure(
    what: str,
    mode: str,
    contenders: list[Contender],
    size: Size,
    rule: str,
    rounds: int,
    memory: bool,
    graph: bool = False,
) -> tuple[list[Row], list[str]]:
    """One row for the floor and for each contender that can run this size, and a line for each that cannot.

    With ``graph`` all of them are CUDA graphs, one launch by the host for a whole step.
    """

    def ready(step: Step) -> Step:
        return capture(step, size.device) if graph else step

    steps: dict[str, Step] = {}
    failed = []
    for contender in contenders:
        if contender.bytes_out and (what, mode) != (LIF, INFERENCE):
            continue
        if contender.longest is not None and size.steps > contender.longest:
            failed.append(f"{contender.name} is not run at T = {size.steps}, only up to {contender.longest}")
            continue
        try:
            step = ready(work(what, mode, contender, size, rule))
            step()
        except (RuntimeError, ValueError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            failed.append(f"{contender.name} failed at T = {size.steps}, {size.dtype}: {reason}")
        else:
            steps[contender.name] = step
    steps[FLOOR] = ready(floor(what, mode, size))
    finish = torch.cuda.synchronize if size.device.type == "cuda" else None
    seconds = interleaved(steps, rounds, finish)
    where = size.device.type + (GRAPH if graph else "") + (CHANNELS_LAST if size.channels_last else "")
    dtype = next(name for name, value in DTYPES.items() if value == size.dtype)
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
        sys.exit(f"--graph captures CUDA graphs: it needs --device cuda, not {str(device)!r}")
    if problem := wrong_neurons(arguments.what, arguments.neurons or []):
        sys.exit(problem)
    earlier = options.earlier_report("--compare", arguments.compare, earlier_rows) if arguments.compare else None
    if missing_device := why_not(device, "sweep"):
        sys.exit(missing_device)
    contenders, missing = available(arguments.implementations)
    for line in missing:
        print(line)
    where = machine(device)
    print(f"{arguments.what} on {where}; medians of {arguments.rounds} interleaved rounds")
    print(f"THP_MEM_ALLOC_ENABLE={os.environ.get('THP_MEM_ALLOC_ENABLE')}: whether fresh memory comes in huge pages")
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
            write_json(arguments.json, report(rows, where))
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
        help=f"neurons of a sample, of lif and layers; those of conv come in maps of {IMAGE}x{IMAGE}",
    )  # fmt: skip
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["fp32"], help="type of tensors (default: fp32)")
    parser.add_argument("--device", type=options.device, default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--rule", choices=RULES, default=RULES[0], help="this package's learning rule (default: tssl)")
    parser.add_argument(
        "--implementations", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME",
        help=f"of {', '.join(CONTENDERS)} (default: all)",
    )  # fmt: skip
    parser.add_argument("--rounds", type=count, default=7, help="rounds, in each of which every case has its turn")
    parser.add_argument("--memory", action="store_true", help="peak memory too")
    parser.add_argument("--channels-last", action="store_true", help="channels of images last in memory, for all")
    parser.add_argument("--graph", action="store_true", help="each step as one CUDA graph; needs a GPU")
    parser.add_argument("--json", type=file, metavar="FILE", help="also write the rows to FILE")
    parser.add_argument("--png", type=file, metavar="FILE", help="also draw them to FILE")
    parser.add_argument(
        "--compare", type=Path, metavar="FILE",
        help="say what changed since an earlier --json; slower: status 1",
    )  # fmt: skip
    parser.add_argument(
        "--slower",
        type=float,
        default=1.2,
        metavar="X",
        help="how many times as slow counts (default: 1.2)",
    )
    parser.set_defaults(run=lambda arguments: sys.exit(run(arguments)))
