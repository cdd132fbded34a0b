"""Timing work on a device by events, or on the host by its clock: marks, percentiles, and caches emptied in between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

WARMUP = 5
"""Runs before the first that counts: kernels are compiled, memory is found, clocks rise."""

SMALLEST_FLUSH = 256 << 20
"""Bytes written between runs where the size of the L2 cache is not known, or is less than half of this."""

SHORTEST_FLUSH = 1e-5
"""Seconds; a flush that seems shorter is taken to last as long."""


class Clock(Protocol):
    """Something that can mark a moment and tell, after `wait`, how far two of them are apart."""

    def mark(self) -> Any: ...
    def wait(self) -> None: ...
    def seconds(self, start: Any, end: Any) -> float: ...


class DeviceClock:
    """Moments in the current stream of a CUDA or ROCm device, as it reaches them; nothing waits until `wait`."""

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
    """Moments on the host, for work on a CPU."""

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
    """Seconds that 20, 50 and 80 per cent of the runs took at most."""

    p20: float
    p50: float
    p80: float

    @classmethod
    def of(cls, seconds: list[float]) -> Quantiles:
        return cls(*(float(value) for value in np.quantile(seconds, [0.2, 0.5, 0.8])))


def measure(
    work: Callable[[], object],
    clock: Clock,
    rounds: int,
    before: Callable[[], object] | None = None,
) -> Quantiles:
    """Time ``rounds`` runs of ``work``, each after ``before``, which is not timed.

    The host runs ahead of the device: while ``before`` keeps the device busy, ``work`` is queued, so that what is
    measured is the device's time and not the host's. For that ``before`` runs as often as queueing takes.
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
    """How often ``before`` must run to keep the device busy for half as long again as the host queues ``work``.

    Once is enough where the host does the work itself.
    """
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
    """Overwrites the device's L2 cache, so that a run finds nothing that the one before it left there."""
    cache = 0
    if device.type == "cuda":
        cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)
    smallest = SMALLEST_FLUSH if device.type == "cuda" else 1 << 20
    return torch.empty(max(2 * cache, smallest), dtype=torch.uint8, device=device).zero_


def copy_bandwidth(device: torch.device, clock: Clock, rounds: int, size: int = 1 << 30) -> float:
    """Bytes per second of a copy within the device's memory, read and written bytes both counted."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / measure(lambda: target.copy_(source), clock, rounds).p50
