"""``python -m bench products``: times of matrix products from packed spikes on a CPU, compared with dense products.

Spikes are random: in each window of time a given share of neurons fires, each at about every other step. Both variants
compute the forward product (spikes times weights) and the weight gradient, interleaved. The dense gradient includes
unpacking the spikes, as in a layer's backward.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tssl_triton.kernels.layout import WINDOW, cdiv, word_dtype

from bench.common import options
from bench.common.tables import aligned, write_json
from bench.common.timing import interleaved, machine
from tssl_triton import pack_spikes, unpack_spikes
from tssl_triton.cpu import busy, spike_product, spike_weight_gradient, takes_spikes

SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)


@dataclass(frozen=True)
class Row:
    """Seconds of each product at one share of firing neurons, from packed spikes and dense."""

    share: float
    product: float
    dense_product: float
    gradient: float
    dense_gradient: float


def drawn(share: float, steps: int, batch: int, inputs: int) -> torch.Tensor:
    """Spikes ``(T, B, inputs)``: in each window that share of neurons fires, at about every other step."""
    generator = torch.Generator().manual_seed(0)
    windows = cdiv(steps, WINDOW)
    fires = torch.rand(windows, 1, batch, inputs, generator=generator) < share
    spikes = torch.rand(windows, WINDOW, batch, inputs, generator=generator) < 0.5
    spikes[:, 0] |= ~spikes.any(1)  # at least once per window
    return (spikes & fires).flatten(0, 1)[:steps].float()


def cases(share: float, steps: int, batch: int, inputs: int, outputs: int) -> dict[str, Callable[[], object]]:
    """The four products, by the fields of `Row`."""
    spikes = drawn(share, steps, batch, inputs)
    words = pack_spikes(spikes, word_dtype(steps))
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(outputs, inputs, generator=generator)
    grad = torch.randn(steps, batch, outputs, generator=generator)

    def dense_gradient() -> torch.Tensor:
        dense = unpack_spikes(words, steps, weight.dtype)
        return grad.flatten(0, 1).t() @ dense.flatten(0, 1)

    def product() -> torch.Tensor:
        found = spike_product(words, steps, None, weight, None, most=1.0)
        assert found is not None
        return found[0]

    return {
        "product": product,
        "dense_product": lambda: F.linear(spikes, weight),
        "gradient": lambda: spike_weight_gradient(grad, words, steps, None, weight, most=1.0),
        "dense_gradient": dense_gradient,
    }


def rows(arguments: argparse.Namespace) -> list[Row]:
    found = []
    sizes = arguments.steps, arguments.batch, arguments.inputs, arguments.outputs
    for share in arguments.shares:
        print(f"{share:.0%} of neurons", file=sys.stderr)
        found.append(Row(share, **interleaved(cases(share, *sizes), arguments.rounds)))
    return found


def table(found: Sequence[Row]) -> str:
    heads = ["neurons that fire", "product, ms", "dense", "ratio", "gradient, ms", "dense", "ratio"]
    lines = []
    for row in found:
        cells = [f"{row.share:.0%}"]
        for ours, dense in ((row.product, row.dense_product), (row.gradient, row.dense_gradient)):
            cells += f"{1e3 * ours:.2f}", f"{1e3 * dense:.2f}", f"{ours / dense:.2f}"
        lines.append(cells)
    return aligned(heads, lines)


def draw(found: Sequence[Row], most: float, title: str, path: Path) -> None:
    """A PNG: both products over the share of firing neurons. Layers use packed spikes up to ``most``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 3.8), layout="constrained")
    for panel, name in zip(figure.subplots(1, 2, sharey=True), ("product", "gradient"), strict=True):
        shares = [100 * row.share for row in found]
        panel.plot(shares, [1e3 * getattr(row, name) for row in found], marker="o", markersize=3, label="from bits")
        dense = [1e3 * getattr(row, f"dense_{name}") for row in found]
        panel.plot(shares, dense, "--", color="0.5", marker="o", markersize=3, label="dense")
        panel.axvline(100 * most, color="0.3", lw=0.8)
        panel.text(100 * most, 0, " dense from here on", rotation=90, ha="right", va="bottom", fontsize="small")
        panel.set(xlabel="neurons that fire in a window, %", title=name)
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small", loc="lower right")
    highest = max(max(row.product, row.dense_product, row.gradient, row.dense_gradient) for row in found)
    figure.axes[0].set(ylabel="ms", ylim=(0, 1.1e3 * highest))
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=120)


def run(arguments: argparse.Namespace) -> None:
    weight = torch.empty(arguments.outputs, arguments.inputs)
    if not takes_spikes(arguments.steps, arguments.batch, weight.shape, weight.dtype):
        sys.exit("these sizes are left to dense products: see tssl_triton/cpu/spike_products.py for the least ones")
    size = f"{arguments.inputs} inputs, {arguments.outputs} outputs, T = {arguments.steps}, batch {arguments.batch}"
    print(f"{size}, fp32; medians of {arguments.rounds} interleaved rounds on {machine()}")
    found = rows(arguments)
    print(table(found))
    if arguments.json:
        write_json(arguments.json, {"machine": machine(), "size": size, "rows": [asdict(row) for row in found]})
    if arguments.png:
        draw(found, busy(arguments.steps), f"Products of spikes: {size}", arguments.png)


def share(text: str) -> float:
    """A number in (0, 1]."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"must be a number in (0, 1], got {text!r}")
    return number


def add_to(commands: Any) -> None:
    count, file = options.count, options.output
    parser = commands.add_parser("products", help=__doc__.splitlines()[0], description=__doc__)
    parser.add_argument("--inputs", type=count, default=400)
    parser.add_argument("--outputs", type=count, default=400)
    parser.add_argument("--steps", type=count, default=5, metavar="T")
    parser.add_argument("--batch", type=count, default=100, metavar="B")
    parser.add_argument(
        "--shares", type=share, nargs="+", default=SHARES, metavar="S",
        help="shares of input neurons that fire in a window (default: 0.05 to 0.8)",
    )  # fmt: skip
    parser.add_argument("--rounds", type=count, default=21)
    parser.add_argument("--json", type=file, metavar="FILE", help="also write the rows to FILE")
    parser.add_argument("--png", type=file, metavar="FILE", help="also plot the rows to FILE")
    parser.set_defaults(run=run)
