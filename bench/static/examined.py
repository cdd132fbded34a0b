"""One row of the static report: a kernel compiled, its instructions and bytes counted, and its time predicted."""

from __future__ import annotations

import math
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context

from .cases import all_cases
from .compiling import compile_launch
from .counting import UnexplainedLoopsError, count, mean
from .hardware import ARCHITECTURES, H100, Device, devices_of, occupancy
from .listing import parse
from .problem import DTYPES, Problem
from .traffic import Request, Traffic, count_traffic

LABEL = "compiled and modelled, not timed"


@dataclass(frozen=True)
class Setting:
    """A case of `bench.static.cases` with its steps, type and compiler target."""

    case: str
    steps: int
    dtype: str
    target: str


@dataclass(frozen=True)
class Code:
    """Figures from the machine code of a setting; instructions, special functions and bytes per neuron-step."""

    registers: int
    spilled: int
    shared: int
    warps: int
    occupancy: float
    loads: dict[int, float]
    """A thread's loads of global memory, by width in bytes."""
    stores: dict[int, float]
    instructions: float
    vector: float
    special: float
    bytes: float
    """Moved by the counted instructions; compare with `Row.bytes`."""
    code_bytes: int


@dataclass(frozen=True)
class Row:
    """Figures of a setting: bytes per neuron-step, and by device predicted milliseconds per 10^9 neuron-steps."""

    setting: Setting
    owner: str
    code: Code
    bytes: float
    checkpoints: float
    compulsory: float
    saved: float | None
    milliseconds: dict[str, float] = field(default_factory=dict)
    issue_use: float | None = None
    """Issue time over memory time, on H100."""


def examine(setting: Setting) -> Code:
    """Compile a setting and analyse its machine code."""
    case = all_cases()[setting.case]
    problem = Problem(setting.steps, case.neurons, DTYPES[setting.dtype])
    launch = case.launch(problem)
    architecture = ARCHITECTURES[setting.target]
    compiled = compile_launch(launch, setting.target)
    threads = launch.num_warps * architecture.threads
    blocks = parse(compiled.listing)
    counts = mean(count(blocks, loops, threads) for loops in case.loops(problem, launch))
    # Neuron-steps per thread, as all programs are full.
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
    """Time to issue the instructions over time to move ``size`` bytes."""
    return device.issue_seconds(instructions) / device.byte_seconds(size)


def model(setting: Setting, code: Code, traffic: dict[str, Traffic]) -> Row:
    """The row of a setting, from its machine code and its counted bytes."""
    case = all_cases()[setting.case]
    problem = Problem(setting.steps, case.few_neurons, DTYPES[setting.dtype])
    neuron_steps = problem.steps * problem.neurons
    moved = {name: t.distinct / neuron_steps for name, t in traffic.items() if name not in case.shared}
    checkpoints = moved.pop(case.checkpoints, 0.0)
    total = sum(moved.values())
    # On NVIDIA every instruction takes an issue slot; on AMD those of the vector unit are the limit.
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
    """Rows of ``settings``, in order. Progress is printed to standard error."""
    # Both 16-bit types move the same bytes.
    requests = {s: Request(s.case, s.steps, "fp32" if s.dtype == "fp32" else "fp16") for s in settings}
    codes: dict[Setting, Code] = {}
    # One process counts bytes while others compile.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        counting = pool.submit(count_traffic, list(dict.fromkeys(requests.values())))
        pending = {pool.submit(examine, setting): setting for setting in settings}
        for done, future in enumerate(as_completed(pending), 1):
            setting = pending[future]
            try:
                codes[setting] = future.result()
                print(f"compiled {done}/{len(settings)}: {setting}", file=sys.stderr)
            except UnexplainedLoopsError as error:
                print(f"skipped {done}/{len(settings)}: {setting}: {error}", file=sys.stderr)
        traffic = counting.result()
    return [model(s, codes[s], traffic[requests[s]]) for s in settings if s in codes]
