"""``python -m bench static``: every kernel compiled for GPUs that need not be here, and what that says of its speed.

Registers, spills, shared memory, load and store widths and instructions per neuron-step are read from the machine
code; bytes per neuron-step are counted by running the kernel under Triton's interpreter; from both follows a
predicted time. Nothing is timed. docs/performance.md says how to read the table and what it cannot say.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from typing import Any

from bench.common import options
from bench.common.tables import write_json

from .counting import UnexplainedLoopsError
from .hardware import ARCHITECTURES, DEVICES, H100, Device, devices_of, occupancy
from .traffic import Request, Traffic, count_traffic

LABEL = "compiled and modelled, not timed"
STEPS = (1, 5, 8, 32, 100)
DTYPE_NAMES = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Setting:
    """A case of `bench.static.cases` at a number of steps and a type, for a target of the compiler."""

    case: str
    steps: int
    dtype: str
    target: str


@dataclass(frozen=True)
class Code:
    """What the machine code of a setting says; instructions, special functions and bytes per neuron-step."""

    registers: int
    spilled: int
    shared: int
    warps: int
    occupancy: float
    loads: dict[int, float]
    """How many of a thread's loads of global memory are so many bytes wide."""
    stores: dict[int, float]
    instructions: float
    vector: float
    special: float
    bytes: float
    """Bytes that the counted instructions move: a check of the counting, beside `Row.bytes`."""
    code_bytes: int


@dataclass(frozen=True)
class Row:
    """A setting, its code, bytes per neuron-step, and predicted milliseconds per 10^9 neuron-steps by device."""

    setting: Setting
    owner: str
    code: Code
    bytes: float
    checkpoints: float
    compulsory: float
    saved: float | None
    milliseconds: dict[str, float] = field(default_factory=dict)
    issue_use: float | None = None
    """Time to issue the instructions by time to move the bytes, on H100."""


def examine(setting: Setting) -> Code:
    """Compile a setting and read its machine code."""
    from .cases import DTYPES, Problem, all_cases
    from .compiling import compile_launch
    from .counting import count, mean
    from .listing import parse

    case = all_cases()[setting.case]
    problem = Problem(setting.steps, case.neurons, DTYPES[setting.dtype])
    launch = case.launch(problem)
    architecture = ARCHITECTURES[setting.target]
    compiled = compile_launch(launch, setting.target)
    threads = launch.num_warps * architecture.threads
    blocks = parse(compiled.listing)
    counts = mean(count(blocks, loops, threads) for loops in case.loops(problem, launch))
    # All programs are full: neuron-steps of a thread.
    share = setting.steps * case.neurons / math.prod(launch.grid) / threads
    widths: dict[str, dict[int, float]] = {"load": {}, "store": {}}
    for (access, width), number in counts.accesses.items():
        widths[access][width] = number
    return Code(
        registers=compiled.registers,
        spilled=compiled.spilled,
        shared=compiled.shared,
        warps=launch.num_warps,
        occupancy=occupancy(architecture, compiled.registers, compiled.shared, launch.num_warps),
        loads=widths["load"],
        stores=widths["store"],
        instructions=counts.instructions / share,
        vector=counts.vector / share,
        special=counts.special / share,
        bytes=counts.bytes / share,
        code_bytes=compiled.code_bytes,
    )


def issue_use(device: Device, size: float, instructions: float) -> float:
    """Time to issue the instructions as a share of the time to move ``size`` bytes."""
    return device.issue_seconds(instructions) / device.byte_seconds(size)


def model(setting: Setting, code: Code, traffic: dict[str, Traffic]) -> Row:
    """Join what was compiled and what was counted."""
    from .cases import DTYPES, Problem, all_cases

    case = all_cases()[setting.case]
    problem = Problem(setting.steps, case.few_neurons, DTYPES[setting.dtype])
    neuron_steps = problem.steps * problem.neurons
    moved = {name: t.distinct / neuron_steps for name, t in traffic.items() if name not in case.shared}
    checkpoints = moved.pop(case.checkpoints, 0.0)
    total = sum(moved.values())
    # On NVIDIA every instruction takes an issue slot; on AMD those of the vector unit are the ones that queue.
    issued = code.vector
    products = case.multiply_adds(problem)
    times = {
        d.name: 1e12 * d.seconds(total + checkpoints, issued, code.special, products, problem.value_bytes)
        for d in devices_of(setting.target)
    }
    return Row(
        setting=setting,
        owner=case.owner,
        code=code,
        bytes=total,
        checkpoints=checkpoints,
        compulsory=case.compulsory(problem),
        saved=case.saved(problem) if case.saved else None,
        milliseconds=times,
        issue_use=issue_use(H100, total + checkpoints, issued) if H100.name in times else None,
    )


def measure(settings: list[Setting], jobs: int) -> list[Row]:
    """Rows of ``settings``, in their order; progress goes to standard error."""
    # A value of 16 bits moves the same bytes, whichever type it is.
    requests = {s: Request(s.case, s.steps, "fp32" if s.dtype == "fp32" else "fp16") for s in settings}
    codes: dict[Setting, Code] = {}
    # One process counts bytes while the others compile.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        counting = pool.submit(count_traffic, list(dict.fromkeys(requests.values())))
        pending = {pool.submit(examine, setting): setting for setting in settings}
        for done, future in enumerate(as_completed(pending), 1):
            setting = pending[future]
            try:
                codes[setting] = future.result()
                print(f"compiled {done}/{len(settings)}: {setting}", file=sys.stderr)
            except UnexplainedLoopsError as error:
                print(f"LEFT OUT {done}/{len(settings)}: {setting}: {error}", file=sys.stderr)
        traffic = counting.result()
    return [model(s, codes[s], traffic[requests[s]]) for s in settings if s in codes]


def chosen(arguments: argparse.Namespace) -> list[Setting]:
    """What the options ask for, as far as it exists."""
    from .cases import all_cases

    cases = all_cases()
    wanted = arguments.kernels or list(cases)
    unknown = [name for name in wanted if not any(name in case for case in cases)]
    if unknown:
        raise SystemExit(f"--kernels: no kernel is called {unknown[0]!r}; there are {', '.join(cases)}")
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
    from . import table as static_table
    from .peers import load

    _, missing = load()
    print(*missing, sep="\n", end="\n" if missing else "", file=sys.stderr)
    rows = measure(chosen(arguments), arguments.jobs)
    print(static_table.markdown(rows) if arguments.markdown else static_table.text(rows))
    if arguments.json:
        devices = [asdict(device) for device in DEVICES]
        report = {"label": LABEL, "devices": devices, "rows": [asdict(row) for row in rows]}
        write_json(arguments.json, report)
    if arguments.png:
        from .roofline import draw

        draw(rows, arguments.png)


def add_to(commands: Any) -> None:
    count, file = options.count, options.output
    parser = commands.add_parser("static", help=(__doc__ or "").splitlines()[0], description=__doc__)
    parser.add_argument("--targets", nargs="+", choices=list(ARCHITECTURES), default=list(ARCHITECTURES))
    parser.add_argument("--steps", type=count, nargs="+", default=list(STEPS), metavar="T", help="time steps")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPE_NAMES, default=list(DTYPE_NAMES))
    parser.add_argument("--kernels", nargs="+", metavar="NAME", help="only kernels whose name contains NAME")
    parser.add_argument("--jobs", type=count, default=os.cpu_count() or 1, help="processes that compile")
    parser.add_argument("--json", type=file, metavar="FILE", help="also write all figures to FILE")
    parser.add_argument("--png", type=file, metavar="FILE", help="also draw the rooflines; needs matplotlib")
    parser.add_argument("--markdown", action="store_true", help="print the tables for docs/performance.md")
    parser.set_defaults(run=run)
