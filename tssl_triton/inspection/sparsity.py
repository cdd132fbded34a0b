"""Firing sparsity of a trained network on its test set: spikes per neuron and sample, layer by layer.

Two views, as in the paper's firing-sparsity figures:

* the share of neurons that fire 0, 1, ..., T times per sample, over all neurons and test samples;
* the histogram of firing rates: the mean spikes per time step of each neuron over the whole test set.

Forward hooks count spikes batch by batch. Each layer keeps T + 1 counts and one count per neuron, never the spikes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tssl_triton._extras import require
from tssl_triton._files import write_text
from tssl_triton.nn import LIF, spiking_layers
from tssl_triton.training import ConfigError, Trainer, new_figure, save_figure

#: Bins of the histogram of firing rates over [0, 1].
RATE_BINS = 20

#: Upper ends of the ranges of spike counts in the printed table.
TABLE_COUNTS = (0, 1, 2, 3, 4, 5, 10, 20, 50, 100, 200, 500, 1000)


class SpikeCounter:
    """Counts the spikes of one layer, batch by batch; `add` is a forward hook.

    Args:
        steps: time steps T of a spike train.

    Attributes:
        fired: ``(T + 1,)`` int64: how often a neuron fired k times in a sample.
        spikes: ``(N,)`` int64: spikes of each neuron over all samples; None before the first batch.
        samples: number of samples.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.fired = torch.zeros(steps + 1, dtype=torch.int64)
        self.spikes: Tensor | None = None
        self.samples = 0

    def add(self, module: nn.Module | None, args: Any, spikes: Tensor) -> None:
        """Count the spikes ``(T, B, *)`` of a batch."""
        if len(spikes) != self.steps:
            raise ValueError(f"spikes must be (T, B, *) with T = {self.steps}, got shape {tuple(spikes.shape)}")
        # float32 sums are exact up to 2^24 steps; bincount needs integers.
        counts = spikes.detach().sum(0, dtype=torch.float32).flatten(1).to(torch.int32)
        self.fired += torch.bincount(counts.flatten(), minlength=self.steps + 1).cpu()
        total = counts.sum(0, dtype=torch.int64).cpu()
        self.spikes = total if self.spikes is None else self.spikes + total
        self.samples += counts.shape[0]


@dataclass(frozen=True)
class LayerSparsity:
    """Firing of one layer, or of several together.

    Args:
        name: of the layer.
        neurons: number of neurons.
        shares: ``T + 1`` numbers with sum 1: the share of neurons that fire k times in the T steps of a sample.
        rates: the share of neurons with a firing rate in each of `RATE_BINS` equal parts of [0, 1].
        rate: mean spikes per neuron and time step.
    """

    name: str
    neurons: int
    shares: tuple[float, ...]
    rates: tuple[float, ...]
    rate: float

    @property
    def silent(self) -> float:
        """Share of neurons that do not fire in a sample."""
        return self.shares[0]

    @property
    def spikes_per_sample(self) -> float:
        """Mean number of spikes of the whole layer per sample."""
        return self.rate * self.neurons * (len(self.shares) - 1)

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return {
            "name": self.name,
            "neurons": self.neurons,
            "spikes_per_sample": self.spikes_per_sample,
            "rate": self.rate,
            "share_firing_k_times": list(self.shares),
            "share_by_rate": list(self.rates),
        }


@dataclass(frozen=True)
class Sparsity:
    """Firing of a network on its test set.

    Args:
        dataset: name of the data set.
        arch: architecture of the network.
        steps: time steps T.
        samples: number of test samples.
        epochs: number of epochs that the network was trained for.
        accuracy: share of the test samples classified correctly, in [0, 1].
        layers: one per spiking layer, from input to output.
        overall: all layers together.
    """

    dataset: str
    arch: str
    steps: int
    samples: int
    epochs: int
    accuracy: float
    layers: tuple[LayerSparsity, ...]
    overall: LayerSparsity

    def table(self) -> list[list[str]]:
        """Rows of text, heading first: the percentage of neurons by number of spikes, for each layer and overall."""
        bounds = [bound for bound in TABLE_COUNTS if bound < self.steps] + [self.steps]
        ranges = list(zip([0, *(bound + 1 for bound in bounds[:-1])], bounds, strict=True))
        heading = [f"fire {first}" if first == last else f"fire {first}-{last}" for first, last in ranges]
        rows = [["layer", "neurons", "spikes/sample", "rate", *heading]]
        for layer in (*self.layers, self.overall):
            counts = [str(layer.neurons), f"{layer.spikes_per_sample:.1f}", f"{layer.rate:.4f}"]
            rows.append([layer.name, *counts, *(f"{sum(layer.shares[a : b + 1]):.1%}" for a, b in ranges)])
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return {
            "dataset": self.dataset,
            "arch": self.arch,
            "steps": self.steps,
            "samples": self.samples,
            "epochs": self.epochs,
            "accuracy": self.accuracy,
            "rate_bins": [k / RATE_BINS for k in range(RATE_BINS + 1)],
            "layers": [layer.as_dict() for layer in self.layers],
            "overall": self.overall.as_dict(),
        }


def measure(trainer: Trainer) -> Sparsity:
    """Run the network of ``trainer`` over its test set and count spikes.

    Raises:
        ConfigError: if the network has no spiking layers.
    """
    config = trainer.config
    layers = spiking_layers(trainer.network)
    if not layers:
        raise ConfigError(f"rule {config.rule!r} has no spiking neurons to count spikes of")
    with counting(layers, config.steps) as counters:
        result = trainer.test()
    assert result is not None  # nothing stops this test
    return Sparsity(
        dataset=config.dataset,
        arch=config.arch,
        steps=config.steps,
        samples=result.images,
        epochs=trainer.epoch,
        accuracy=result.accuracy,
        layers=tuple(summed(name, [counter]) for name, counter in counters.items()),
        overall=summed("overall", list(counters.values())),
    )


@contextlib.contextmanager
def counting(layers: Mapping[str, LIF], steps: int) -> Iterator[dict[str, SpikeCounter]]:
    """Count the spikes of each layer while the network runs within this context."""
    counters = {name: SpikeCounter(steps) for name in layers}
    hooks = [layer.register_forward_hook(counters[name].add) for name, layer in layers.items()]
    try:
        yield counters
    finally:
        for hook in hooks:
            hook.remove()


def summed(name: str, counters: Sequence[SpikeCounter]) -> LayerSparsity:
    """Statistics of one or several layers, in which every neuron has the same weight.

    Raises:
        ValueError: if a counter has counted nothing.
    """
    totals = [counter.spikes for counter in counters if counter.spikes is not None]
    if not totals or len(totals) < len(counters):
        raise ValueError(f"counters of {name} must have counted at least one batch each")
    fired = torch.stack([counter.fired for counter in counters]).sum(0)
    rates = torch.cat(totals).double() / (counters[0].steps * counters[0].samples)
    # A rate of exactly 1 belongs to the last bin.
    bins = (rates * RATE_BINS).long().clamp_(max=RATE_BINS - 1)
    histogram = torch.bincount(bins, minlength=RATE_BINS).double() / len(rates)
    shares = fired.double() / fired.sum()
    return LayerSparsity(name, len(rates), tuple(shares.tolist()), tuple(histogram.tolist()), float(rates.mean()))


def write(folder: Path, sparsity: Sparsity, title: str) -> None:
    """Write ``sparsity.json`` and ``sparsity.png`` into ``folder``, each completely or not at all.

    Raises:
        MissingExtraError: if matplotlib is not installed; the JSON file is written first.
    """
    write_text(folder / "sparsity.json", json.dumps(sparsity.as_dict(), indent=1) + "\n")
    draw(folder / "sparsity.png", sparsity, title)


def draw(path: Path, sparsity: Sparsity, title: str) -> None:
    """Draw both views into the PNG file ``path``: bars for all neurons, a line for each layer.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    figure = new_figure("the figure of firing sparsity", 11, 5)
    ticker = require("matplotlib.ticker", "train", "the figure of firing sparsity")
    figure.suptitle(title)
    counts_axes, rates_axes = figure.subplots(1, 2)

    counts = range(sparsity.steps + 1)
    counts_axes.bar(counts, [100 * share for share in sparsity.overall.shares], color="0.8", width=0.9)
    centres = [(k + 0.5) / RATE_BINS for k in range(RATE_BINS)]
    rates_axes.bar(centres, [100 * share for share in sparsity.overall.rates], color="0.8", width=0.9 / RATE_BINS)
    marker = "o-" if sparsity.steps <= 10 else "-"
    for layer in sparsity.layers:
        label = f"{layer.name}: {layer.silent:.0%} silent"
        counts_axes.plot(counts, [100 * share for share in layer.shares], marker, markersize=3, lw=1, label=label)
        label = f"{layer.name}: mean {layer.rate:.3f}"
        rates_axes.plot(centres, [100 * share for share in layer.rates], "o-", markersize=3, lw=1, label=label)
    counts_axes.set_xlabel(f"spikes of a neuron in {sparsity.steps} steps")
    counts_axes.set_ylabel("neurons (%), over all test samples")
    counts_axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    rates_axes.set_xlabel("firing rate of a neuron (spikes per step)")
    rates_axes.set_ylabel("neurons (%)")
    rates_axes.set_xlim(0, 1)
    for axes in (counts_axes, rates_axes):
        # Shares range from most of the neurons to a few in a million, which a linear scale would not show.
        axes.set_yscale("symlog", linthresh=0.1)
        axes.set_ylim(0, 100)
        axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes.grid(alpha=0.3)
        # Below the axes, where the lines of eight layers fit side by side.
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 3, "frameon": False}
        axes.legend(fontsize="small", title="bars: all neurons", title_fontsize="small", **below)
    save_figure(path, figure)
