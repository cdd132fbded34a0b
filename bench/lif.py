"""``python -m bench lif``: the neuron alone, forward and backward, against eager PyTorch and against copying.

The floor is the time to copy the 24 bytes per neuron-step that must move in float32: forward reads the input and
writes spikes, backward reads the gradient, the input again and writes the gradient; one more access is for bits and
state. A copy of x bytes counts as x read plus x written.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tssl_triton import LIFParameters, implementation, lif

from .baselines import eager_lif
from .timing import interleaved, machine

SHAPE = (50, 32, 28, 28)
BYTES = 24


@dataclass(frozen=True)
class Row:
    """One measurement; times in nanoseconds per neuron-step."""

    steps: int
    neurons: int
    ours: float
    eager: float
    copy: float

    @property
    def against_eager(self) -> float:
        return self.ours / self.eager

    @property
    def against_copy(self) -> float:
        return self.ours / self.copy


def training_step(function: Callable[[Tensor, LIFParameters], Tensor], y: Tensor, grad: Tensor) -> Callable[[], None]:
    """Forward and backward of ``function`` on ``y``, as a training step would run them."""
    params = LIFParameters()

    def step() -> None:
        leaf = y.detach().requires_grad_()
        function(leaf, params).backward(grad)

    return step


def measure(steps: int, shape: tuple[int, ...], rounds: int, seed: int = 0) -> Row:
    """Time ``(steps, *shape)`` neuron-steps; raises if ours and the eager gradient differ."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn((steps, *shape), generator=generator).mul_(1.5)
    grad = torch.randn((steps, *shape), generator=generator)
    check_agreement(y[:, :1].contiguous(), grad[:, :1].contiguous())
    target = torch.empty_like(y)

    def copy() -> None:
        for _ in range(BYTES // 8):
            target.copy_(y)

    cases = {"ours": training_step(lif, y, grad), "eager": training_step(eager_lif, y, grad), "copy": copy}
    seconds = interleaved(cases, rounds)
    return Row(steps, y[0].numel(), **{name: 1e9 * value / y.numel() for name, value in seconds.items()})


def check_agreement(y: Tensor, grad: Tensor) -> None:
    """No speed is worth printing for wrong numbers."""
    gradients = []
    for function in (lif, eager_lif):
        leaf = y.clone().requires_grad_()
        function(leaf, LIFParameters()).backward(grad)
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    error = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    if not error < 1e-4:
        raise RuntimeError(f"the gradients differ by {error:.1e} (relative); no times are printed for wrong results")


def table(rows: list[Row]) -> str:
    lines = [f"{'T':>5} {'neurons':>10} {'ours':>8} {'eager':>8} {'copy':>8} {'ours/eager':>11} {'ours/copy':>10}"]
    lines += [
        f"{r.steps:5d} {r.neurons:10,d} {r.ours:8.2f} {r.eager:8.2f} {r.copy:8.2f} "
        f"{r.against_eager:11.3f} {r.against_copy:10.2f}"
        for r in rows
    ]
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> None:
    print(f"LIF forward + backward, float32, {implementation('cpu')} on {machine()}")
    print(f"times in ns per neuron-step, median of {arguments.rounds} interleaved rounds; copy moves {BYTES} bytes")
    print(
        f"THP_MEM_ALLOC_ENABLE={os.environ.get('THP_MEM_ALLOC_ENABLE')} (fresh memory in huge pages, for every column)"
    )
    rows = []
    for steps in arguments.steps:
        rows.append(measure(steps, SHAPE, arguments.rounds))
        print(table(rows[-1:]) if len(rows) == 1 else table(rows[-1:]).splitlines()[1], flush=True)
    if arguments.json:
        report = {"machine": machine(), "implementation": implementation("cpu"), "rows": [asdict(r) for r in rows]}
        Path(arguments.json).write_text(json.dumps(report, indent=2) + "\n")


def add_to(commands: Any) -> None:
    parser = commands.add_parser("lif", help=__doc__.splitlines()[0], description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 100], metavar="T", help="time steps to measure")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, each of which runs every case once")
    parser.add_argument("--json", metavar="FILE", help="also write the rows to FILE")
    parser.set_defaults(run=run)
