"""The project's test command: ``python tests/run.py [pytest arguments]``.

Triton decides when a kernel is defined whether it will be compiled or interpreted, so pytest runs as usual, and with
``TRITON_INTERPRET=1`` for the tests that hold the Triton kernels against the reference. What is only compiled, and
layers of interpreted kernels, are runs of their own, so that two processes share the work evenly. Each has its share
of the processors: more threads than there are wait for one another in loops that cost several times the work.
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
INTERPRETED_FILES = [
    *(f"tests/nn/test_{name}.py" for name in ("layers", "fused", "recurrent", "rules", "layer_node")),
    *(f"tests/bench/test_{name}.py" for name in ("counting", "gpu_fused", "hardware", "report", "traffic")),
    "tests/gpu/test_fused_device_checks.py",
]
RUNS = (  # the longest first
    (
        "Triton kernels under the interpreter",
        INTERPRETED,
        ["tests/operators", "--ignore=tests/operators/test_learnt.py", "--ignore=tests/operators/test_registration.py"],
    ),
    ("CPU path, networks, training, packaging", {}, ["tests", "--ignore=tests/kernels"]),
    (
        "Learnt constants, layers and traffic of interpreted kernels",
        INTERPRETED,
        ["tests/operators/test_learnt.py", *INTERPRETED_FILES],
    ),
    ("Triton kernels compiled for GPUs", {}, ["tests/kernels"]),
)
AT_ONCE = 2


def run(title: str, environment: dict[str, str], arguments: list[str]) -> dict[str, int]:
    """Counts of one pytest run, whose output is printed when it has ended: another runs beside it."""
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
    # Exit code 5 is "no test was selected", which -k may well mean for one of the runs.
    if code not in (0, 5) and failed == 0:
        failed = 1
    return {
        "passed": total["tests"] - failed - total["skipped"],
        "failed": failed,
        "skipped": total["skipped"],
    }


def main() -> int:
    total = {"passed": 0, "failed": 0, "skipped": 0}
    print(f"{len(RUNS)} runs of pytest, {AT_ONCE} at a time; each prints when it has ended", flush=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = [pool.submit(run, title, environment, [*folders, *sys.argv[1:]]) for title, environment, folders in RUNS]
        for finished in runs:
            for name, count in finished.result().items():
                total[name] += count
    print(", ".join(f"{count} {name}" for name, count in total.items()))
    return 0 if total["passed"] and not total["failed"] else 1


if __name__ == "__main__":
    sys.exit(main())
