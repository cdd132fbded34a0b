"""``python -m bench latency``: time of a process's first training step on a CPU, compilation included.

Each network runs in two new processes: the first compiles all loops into an empty cache, the second finds them there,
like any later run of a user. The time of the imports is listed separately. The cache is a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.common import options
from bench.common.tables import aligned, write_json
from bench.common.timing import machine
from tssl_triton.training.presets import EXPERIMENTS

ROOT = Path(__file__).resolve().parents[1]
CACHE = "TSSL_CACHE_DIR"


@dataclass(frozen=True)
class Row:
    """Seconds of the imports, the first step and the second step of one process.

    Args:
        network: a key of `tssl_triton.training.presets.EXPERIMENTS`.
        cached: whether an earlier process has filled the cache.
    """

    network: str
    cached: bool
    imports: float
    first: float
    second: float


def measured(network: str, batch: int, started: float) -> dict[str, float]:
    """Measure this process; ``started`` is `time.perf_counter` before its imports."""
    from bench.common.steps import TrainingStep

    imported = time.perf_counter()
    step = TrainingStep(network, batch)
    step()
    first = time.perf_counter()
    step()
    return {"imports": imported - started, "first": first - imported, "second": time.perf_counter() - first}


def in_a_new_process(network: str, batch: int, cache: str) -> dict[str, float]:
    script = (
        "import time; started = time.perf_counter(); import json; from bench import latency; "
        f"print(json.dumps(latency.measured({network!r}, {batch}, started)))"
    )
    environment = {**os.environ, CACHE: cache}
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return dict(json.loads(process.stdout.splitlines()[-1]))


def rows(networks: Sequence[str], batch: int) -> list[Row]:
    """Two rows per network."""
    found = []
    for network in networks:
        with tempfile.TemporaryDirectory() as cache:
            for cached in (False, True):
                print(f"{network}, {'cached' if cached else 'empty cache'}", file=sys.stderr)
                found.append(Row(network, cached, **in_a_new_process(network, batch, cache)))
    return found


def table(found: Sequence[Row]) -> str:
    heads = ["", "cache", "imports", "first step", "second step"]
    lines = [
        [row.network, "filled" if row.cached else "empty", f"{row.imports:.1f} s", f"{row.first:.1f} s",
         f"{1e3 * row.second:.0f} ms"]
        for row in found
    ]  # fmt: skip
    return aligned(heads, lines, left=2)


def run(arguments: argparse.Namespace) -> None:
    print(machine())
    found = rows(arguments.networks, arguments.batch)
    print(table(found))
    if arguments.json:
        write_json(arguments.json, {"machine": machine(), "rows": [asdict(row) for row in found]})


def add_to(commands: Any) -> None:
    count, file = options.count, options.output
    parser = commands.add_parser("latency", help=__doc__.splitlines()[0], description=__doc__)
    parser.add_argument(
        "--networks", nargs="+", choices=EXPERIMENTS, default=["mnist", "fashion-mnist"], metavar="NAME",
        help=f"any of {', '.join(EXPERIMENTS)} (default: mnist fashion-mnist)",
    )  # fmt: skip
    parser.add_argument("--batch", type=count, default=50)
    parser.add_argument("--json", type=file, metavar="FILE", help="also write the rows to FILE")
    parser.set_defaults(run=run)
