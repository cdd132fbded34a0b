"""How a kernel is launched: chosen by a pure function of the problem's size, so that it can be read and tested."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .layout import cdiv


@dataclass(frozen=True)
class LaunchPlan:
    """One program owns ``block`` neurons for all time steps and runs on ``num_warps`` warps of threads."""

    block: int
    num_warps: int

    def grid(self, neurons: int) -> int:
        """Programs that cover ``neurons``."""
        return cdiv(neurons, self.block)


def device_guard(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be the tensor's ("Pointer argument cannot be accessed")."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()


_forced: LaunchPlan | None = None


def plan_neurons(neurons: int) -> LaunchPlan:
    """A plan for kernels that walk time with a block of neurons in registers.

    Four neurons per thread make 128-bit accesses of float32 and leave registers for a window's membrane potentials.
    Small layers take smaller blocks, down to one warp, so that their few neurons spread over more of the device:
    256 programs are about two for each multiprocessor of the large ones.
    """
    if _forced is not None:
        return _forced
    for num_warps in (4, 2):
        plan = LaunchPlan(block=128 * num_warps, num_warps=num_warps)
        if plan.grid(neurons) >= 256:
            return plan
    return LaunchPlan(block=128, num_warps=1)


@contextmanager
def forced_plan(plan: LaunchPlan) -> Iterator[None]:
    """Use ``plan`` for every launch inside the ``with`` block, for tests and tuning."""
    global _forced
    before, _forced = _forced, plan
    try:
        yield
    finally:
        _forced = before
