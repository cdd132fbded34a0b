"""``python -m bench launches``: kernel launches of a training step of the paper's networks, counted without a GPU.

A layer of neurons is one launch forward and one backward, for any T. "product" counts matrix products and convolutions,
"other" elementwise operators, reductions and the optimizer. An operator of PyTorch counts as one launch; it may take
more. A step is network, loss, gradient and AdamW; the first step, which sets up the optimizer, is not counted.

A second table has every layer fused whose input is packed spikes: all but the first and those after pooling.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from typing import Any

from bench.common.steps import BATCH, TrainingStep, spiking_layers
from bench.common.tables import aligned
from bench.common.tracing import DEVICE, KINDS, Record, pretending, record
from tssl_triton.training.presets import EXPERIMENTS


@dataclass(frozen=True)
class Row:
    """Launches of one training step of one network."""

    network: str
    layers: int
    launches: Counter[str]

    @property
    def total(self) -> int:
        return sum(self.launches.values())


def trace(name: str, batch: int = 2, fused: str = "auto") -> tuple[TrainingStep, Record]:
    """A network's second training step, recorded as on a GPU."""
    with pretending():
        step = TrainingStep(name, batch, DEVICE, fused=fused)
        step()
    return step, record(step)


def count(name: str, batch: int = 2, fused: str = "auto") -> Row:
    """Launches of one training step of experiment ``name``.

    ``batch`` matters only for fused layers' weight gradients: with very few pixels there are no partial sums to add up.
    """
    step, seen = trace(name, batch, fused)
    return Row(name, len(spiking_layers(step.network)), seen.launches())


def table(rows: list[Row]) -> str:
    heads = ["network", "layers", *KINDS, "total"]
    return aligned(heads, [[r.network, r.layers, *(r.launches[kind] for kind in KINDS), r.total] for r in rows])


def run(arguments: argparse.Namespace) -> None:
    print("launches per training step (network, loss, gradient, AdamW); an operator of PyTorch counts as one")
    print(table([count(name) for name in arguments.networks]))
    print('\nthe same with fused="always"')
    print(table([count(name, BATCH, "always") for name in arguments.networks]))


def add_to(commands: Any) -> None:
    parser = commands.add_parser("launches", help=__doc__.splitlines()[0], description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(EXPERIMENTS), choices=EXPERIMENTS, metavar="NAME")
    parser.set_defaults(run=run)
