"""Peak memory of a step: the most that it holds at once, beyond what is held before it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

ALLOCATION = "[memory]"
"""How PyTorch's profiler calls the event of an allocation, or of its end."""


def peak_memory(step: Callable[[], object], device: torch.device) -> int:
    """Bytes of tensors that ``step`` has allocated at its worst moment; call it once before, to compile.

    A replayed graph allocates nothing: its memory was set aside when it was captured.
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
