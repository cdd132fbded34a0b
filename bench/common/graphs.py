"""A whole training step as one CUDA graph: one launch by the host for all of its kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from .steps import TrainingStep

Result = TypeVar("Result")

WARMUP = 3
"""Steps before capture: kernels are compiled, libraries set up, and the optimizer's state allocated."""


class Replay(Generic[Result]):
    """Captured work: calling it replays the graph and returns what the work returned, overwritten each time.

    Args:
        graph: with the kernels.
        work: what was captured; the graph reads and writes tensors that only it may hold.
        result: what it returned.
    """

    def __init__(self, graph: torch.cuda.CUDAGraph, work: Callable[[], Result], result: Result) -> None:
        self.graph, self.work, self.result = graph, work, result

    def __call__(self) -> Result:
        self.graph.replay()
        return self.result


def captured(step: TrainingStep, warmup: int = WARMUP) -> Replay[Tensor]:
    """A replay of ``step``, captured after ``warmup`` ordinary steps of it, that returns the loss.

    Capturing learns nothing: after ``n`` replays the weights have seen ``warmup + n`` steps. ``step.inputs`` and
    ``step.labels`` may be written in between.
    """
    # Gradients are allocated inside the graph's own memory.
    return capture(step, step.inputs.device, warmup, lambda: step.optimizer.zero_grad(set_to_none=True))


def capture(
    work: Callable[[], Result],
    device: torch.device,
    warmup: int = WARMUP,
    ready: Callable[[], object] = lambda: None,
) -> Replay[Result]:
    """The same for any work whose tensors stay where they are; ``ready`` is called right before it is captured."""
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(warmup):
                work()
        torch.cuda.current_stream().wait_stream(side)
        ready()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = work()
    return Replay(graph, work, result)
