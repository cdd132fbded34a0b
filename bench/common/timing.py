"""Timing ways of doing the same work, in one process and interleaved, so that a noisy machine is fair to all."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch

CPU = torch.device("cpu")


IN_A_ROW = 3
"""Timed runs of a case in a round."""


def interleaved(
    cases: Mapping[str, Callable[[], object]], rounds: int, finish: Callable[[], object] | None = None
) -> dict[str, float]:
    """Median seconds of each case over ``rounds`` rounds, after one round to warm up.

    In a round every case has its turn. It runs once untimed and then `IN_A_ROW` times: a step of training follows
    another of its own, whose memory and caches it finds, and not one of somebody else's.

    ``finish`` waits for work that a case has only begun, as on a GPU.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for warm in range(rounds + 1):
        for name, work in cases.items():
            for run in range(1 + IN_A_ROW):
                start = time.perf_counter()
                work()
                if finish is not None:
                    finish()
                if warm and run:
                    seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine(device: torch.device = CPU) -> str:
    """One line that says what the figures were measured on."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        runtime = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
        return f"{name}, torch {torch.__version__}, {runtime}, Python {platform.python_version()}"
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"
