"""A training step as one CUDA graph: the host launches all of its kernels at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from .steps import TrainingStep

Result = TypeVar("Result")

WARMUP = 3
"""Steps before capture: kernels compile, libraries initialise, the optimizer allocates its state."""


class Replay(Generic[Result]):
    """Captured work. A call replays the graph and returns the work's result, in the same memory each time.

    Args:
        graph: the captured graph.
        work: the captured function, kept because it may hold the only references to tensors that the graph uses.
        result: the function's result.
    """

    def __init__(self, graph: torch.cuda.CUDAGraph, work: Callable[[], Result], result: Result) -> None:
        self.graph, self.work, self.result = graph, work, result

    def __call__(self) -> Result:
        self.graph.replay()
        return self.result


def captured(step: TrainingStep, warmup: int = WARMUP) -> Replay[Tensor]:
    """A replay of ``step`` that returns the loss, captured after ``warmup`` ordinary steps.

    Capturing does not train: after ``n`` replays the weights have taken ``warmup + n`` steps. ``step.inputs`` and
    ``step.labels`` may be written between replays.
    """
    # Gradients are allocated in the graph's own memory.
    return capture(step, step.inputs.device, warmup, lambda: step.optimizer.zero_grad(set_to_none=True))


def capture(
    work: Callable[[], Result],
    device: torch.device,
    warmup: int = WARMUP,
    ready: Callable[[], object] = lambda: None,
) -> Replay[Result]:
    """The same for any work on tensors at fixed addresses; ``ready`` is called just before capture."""
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
