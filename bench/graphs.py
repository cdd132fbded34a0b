"""A whole training step as one CUDA graph: one launch by the host for all of its kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .steps import TrainingStep

WARMUP = 3
"""Steps before capture: kernels are compiled, libraries set up, and the optimizer's state allocated."""


def captured(step: TrainingStep, warmup: int = WARMUP) -> Callable[[], Tensor]:
    """A function that replays ``step``, captured after ``warmup`` ordinary steps of it; it returns the loss.

    The loss is the same tensor each time, overwritten by the next replay. Capturing learns nothing: after ``n`` replays
    the weights have seen ``warmup + n`` steps. ``step.inputs`` and ``step.labels`` may be written in between.
    """
    device = step.inputs.device
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(warmup):
                step()
        torch.cuda.current_stream().wait_stream(side)
        # Gradients are allocated inside the graph's own memory.
        step.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = step()

    def replay() -> Tensor:
        graph.replay()
        return loss

    return replay
