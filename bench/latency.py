"""``python -m bench latency``: how long the first training step of a process takes on a CPU, compiling included.

Each network's step runs in a process of its own: first with an empty cache, where every loop is written,
compiled and linked; then with what that process left, as every later run of a user finds it. The time counts from the
end of the imports; theirs stands beside it. The cache is a temporary folder, so that the user's own is not touched.
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
    """One process: seconds of the imports, of the first step, and of the second.

    Args:
        network: a key of `tssl_triton.training.presets.EXPERIMENTS`.
        cached: whether an earlier process had compiled the same.
    """

    network: str
    cached: bool
    imports: float
    first: float
    second: float


def measured(network: str, batch: int, started: float) -> dict[str, float]:
    """What one process measures of itself, ``started`` by the clock of `time.perf_counter` before its imports."""
    from bench.common.steps import TrainingStep

    imported = time.perf_counter()
    step = TrainingStep(network, batch)
    step()
    first = time.perf_counter()
    step()
    return {
        "imports": imported - started,
        "first": first - imported,
        "second": time.perf_counter() - first,
    }


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
    """Two rows of each network."""
    found = []
    for network in networks:
        with tempfile.TemporaryDirectory() as cache:
            for cached in (False, True):
                print(f"{network}, {'cached' if cached else 'nothing cached'}", file=sys.stderr)
                found.append(Row(network, cached, **in_a_new_process(network, batch, cache)))
    return found


def table(found: Sequence[Row]) -> str:
    heads = ["", "cache", "imports", "first step", "second step"]
    lines = [
        [row.network, "there" if row.cached else "empty", f"{row.imports:.1f} s", f"{row.first:.1f} s",
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
        help=f"of {', '.join(EXPERIMENTS)} (default: mnist fashion-mnist)",
    )  # fmt: skip
    parser.add_argument("--batch", type=count, default=50)
    parser.add_argument("--json", type=file, metavar="FILE", help="also write the rows to FILE")
    parser.set_defaults(run=run)
