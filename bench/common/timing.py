"""Times and peak memory of a piece of work, on the host's clock or by a device's events."""

from __future__ import annotations

import itertools
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

CPU = torch.device("cpu")

RUNS_IN_A_ROW = 3
"""Timed runs of a case in each round of `interleaved`."""

WARMUP = 5
"""Untimed runs in `measure`: kernels compile, memory is allocated, clocks rise."""

SMALLEST_FLUSH = 256 << 20
"""Least number of bytes written to flush a GPU's L2 cache, whose size may be unknown."""

SHORTEST_FLUSH = 1e-5
"""Seconds; lower bound for the measured time of a flush."""

ALLOCATION = "[memory]"
"""Name of an allocation or release in PyTorch's profiler."""


def interleaved(
    cases: Mapping[str, Callable[[], object]], rounds: int, finish: Callable[[], object] | None = None
) -> dict[str, float]:
    """Median seconds of each case over ``rounds`` rounds, after one round of warm-up.

    Cases run in turns in one process, so that background load affects all of them equally. A turn is one untimed run,
    which restores the case's caches and memory, and `RUNS_IN_A_ROW` timed ones.

    Args:
        cases: work by name.
        rounds: timed rounds.
        finish: waits for asynchronous work, as on a GPU.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for warm in range(rounds + 1):
        for name, work in cases.items():
            for run in range(1 + RUNS_IN_A_ROW):
                start = time.perf_counter()
                work()
                if finish is not None:
                    finish()
                if warm and run:
                    seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine(device: torch.device = CPU) -> str:
    """One line: device, versions and threads."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        runtime = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
        return f"{name}, torch {torch.__version__}, {runtime}, Python {platform.python_version()}"
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"


def peak_memory(step: Callable[[], object], device: torch.device) -> int:
    """Most bytes of tensors that ``step`` holds at once, beyond those allocated before it.

    Call ``step`` once before, so that it is compiled. A replayed CUDA graph allocates nothing: its memory was reserved
    at capture.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == ALLOCATION]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate((event.nbytes() for event in events), initial=0))


class Clock(Protocol):
    """Records moments; `seconds` between two of them is known after `wait`."""

    def mark(self) -> Any: ...
    def wait(self) -> None: ...
    def seconds(self, start: Any, end: Any) -> float: ...


class DeviceClock:
    """Events in the current stream of a CUDA or ROCm device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def wait(self) -> None:
        torch.cuda.synchronize(self.device)

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return start.elapsed_time(end) / 1e3


class HostClock:
    """The host's clock, for work on a CPU."""

    def mark(self) -> float:
        return time.perf_counter()

    def wait(self) -> None:
        pass

    def seconds(self, start: float, end: float) -> float:
        return end - start


def clock_of(device: torch.device) -> Clock:
    return DeviceClock(device) if device.type == "cuda" else HostClock()


@dataclass(frozen=True)
class Quantiles:
    """20th, 50th and 80th percentile, in seconds."""

    p20: float
    p50: float
    p80: float

    @classmethod
    def of(cls, seconds: list[float]) -> Quantiles:
        return cls(*(float(value) for value in np.quantile(seconds, [0.2, 0.5, 0.8])))


def measure(
    work: Callable[[], object], clock: Clock, rounds: int, before: Callable[[], object] | None = None
) -> Quantiles:
    """Time ``rounds`` runs of ``work``, each after untimed runs of ``before``.

    ``before`` keeps the device busy while the host queues ``work``, so that the device's time is measured and not the
    host's. It therefore runs as many times as queueing takes.
    """
    for _ in range(WARMUP):
        work()
    ahead = [] if before is None else [before] * repeats(work, before, clock)
    marks = []
    for _ in range(rounds):
        for each in ahead:
            each()
        start = clock.mark()
        work()
        marks.append((start, clock.mark()))
    clock.wait()
    return Quantiles.of([clock.seconds(start, end) for start, end in marks])


def repeats(work: Callable[[], object], before: Callable[[], object], clock: Clock) -> int:
    """Runs of ``before`` that keep the device busy for 1.5 times as long as the host queues ``work``; 1 on a CPU."""
    if isinstance(clock, HostClock):
        return 1
    queueing = []
    for _ in range(3):
        clock.wait()
        start = time.perf_counter()
        work()
        queueing.append(time.perf_counter() - start)
    clock.wait()
    start = clock.mark()
    before()
    end = clock.mark()
    clock.wait()
    return max(1, math.ceil(1.5 * min(queueing) / max(clock.seconds(start, end), SHORTEST_FLUSH)))


def flusher(device: torch.device) -> Callable[[], object]:
    """A function that overwrites the device's L2 cache."""
    cache = 0
    if device.type == "cuda":
        cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)
    smallest = SMALLEST_FLUSH if device.type == "cuda" else 1 << 20
    return torch.empty(max(2 * cache, smallest), dtype=torch.uint8, device=device).zero_


def copy_bandwidth(device: torch.device, clock: Clock, rounds: int, size: int = 1 << 30) -> float:
    """Bytes per second of a copy within the device's memory; bytes read and bytes written both count."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / measure(lambda: target.copy_(source), clock, rounds).p50
