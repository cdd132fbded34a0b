"""The project's test command: ``python tests/run.py [pytest arguments]``.

Triton decides when a kernel is defined whether it is compiled or interpreted. So pytest runs as usual, and again with
``TRITON_INTERPRET=1`` for the tests marked ``interpret`` or ``implementation``. The work is split into four runs, two
at a time; each run has its share of the processors, since more threads than processors wait for one another.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INTERPRETED = {"TRITON_INTERPRET": "1"}
RUNS = (  # the longest first
    ("Operators on interpreted Triton kernels", INTERPRETED, ["tests/operators"]),
    ("CPU path, networks, training, packaging", {}, ["tests", "--ignore=tests/kernels"]),
    ("Layers and traffic on interpreted Triton kernels", INTERPRETED, ["tests/nn", "tests/bench", "tests/gpu"]),
    ("Triton kernels compiled for GPUs", {}, ["tests/kernels"]),
)
AT_ONCE = 2


def run(title: str, environment: dict[str, str], arguments: list[str]) -> dict[str, int]:
    """Counts of one pytest run. Its output is printed at the end, as another run is beside it."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *arguments]
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // AT_ONCE))}
        process = subprocess.run(
            command, cwd=ROOT, env={**threads, **os.environ, **environment}, check=False, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        print(f"== {title} ==\n{process.stdout}", flush=True)
        code = process.returncode
        if not report.exists():
            return {"passed": 0, "failed": 1, "skipped": 0}
        suites = ElementTree.parse(report).getroot().iter("testsuite")
        total = dict.fromkeys(("tests", "errors", "failures", "skipped"), 0)
        for suite in suites:
            for name in total:
                total[name] += int(suite.get(name, 0))
    failed = total["errors"] + total["failures"]
    # Exit code 5 is "no test was selected", as -k may do in one of the runs.
    if code not in (0, 5) and failed == 0:
        failed = 1
    return {
        "passed": total["tests"] - failed - total["skipped"],
        "failed": failed,
        "skipped": total["skipped"],
    }


def main() -> int:
    total = {"passed": 0, "failed": 0, "skipped": 0}
    print(f"{len(RUNS)} runs of pytest, {AT_ONCE} at a time; each prints at its end", flush=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = [pool.submit(run, title, environment, [*folders, *sys.argv[1:]]) for title, environment, folders in RUNS]
        for finished in runs:
            for name, count in finished.result().items():
                total[name] += count
    print(", ".join(f"{count} {name}" for name, count in total.items()))
    return 0 if total["passed"] and not total["failed"] else 1


if __name__ == "__main__":
    sys.exit(main())
