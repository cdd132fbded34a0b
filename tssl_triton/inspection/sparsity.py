"""How sparsely a trained network fires: spikes per neuron and window of time, layer by layer, on the test set.

Two views, as the paper's firing-sparsity figures show them:

* the share of neurons that fire 0, 1, ..., T times while a sample is presented, over all neurons and test samples;
* the histogram of firing rates: for each neuron, its mean spikes per time step over the whole test set.

Counts are gathered by forward hooks, batch by batch. What is kept is T + 1 numbers and one number per neuron for each
layer; spikes themselves are never collected.
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
from tssl_triton._files import write_atomically
from tssl_triton.nn.weighted import LIF, SpikingConv2d, SpikingLinear
from tssl_triton.training.config import ConfigError
from tssl_triton.training.trainer import Trainer

#: Bins of the histogram of firing rates, which lie in [0, 1].
RATE_BINS = 20

#: Columns of the printed table: counts up to these, each from one more than the one before.
TABLE_COUNTS = (0, 1, 2, 3, 4, 5, 10, 20, 50, 100, 200, 500, 1000)


class SpikeCounter:
    """Counts the spikes of one layer, batch by batch; `add` is a forward hook.

    Args:
        steps: time steps T of a spike train.

    Attributes:
        fired: ``(T + 1,)`` int64: how often a neuron fired k times while a sample was presented.
        spikes: ``(N,)`` int64: spikes of each neuron, over all samples; None before the first batch.
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
        # Summed in float32, which is exact up to 2^24 steps; the integers after that are for bincount.
        counts = spikes.detach().sum(0, dtype=torch.float32).flatten(1).to(torch.int32)
        self.fired += torch.bincount(counts.flatten(), minlength=self.steps + 1).cpu()
        total = counts.sum(0, dtype=torch.int64).cpu()
        self.spikes = total if self.spikes is None else self.spikes + total
        self.samples += counts.shape[0]


@dataclass(frozen=True)
class LayerSparsity:
    """How one layer, or several together, fired.

    Args:
        name: of the layer.
        neurons: number of its neurons.
        shares: ``T + 1`` numbers that add up to 1: share of neurons that fire k times in a sample's T steps.
        rates: share of neurons whose firing rate lies in each of `RATE_BINS` equal parts of [0, 1].
        rate: mean spikes per neuron and time step.
    """

    name: str
    neurons: int
    shares: tuple[float, ...]
    rates: tuple[float, ...]
    rate: float

    @property
    def silent(self) -> float:
        """Share of neurons that do not fire while a sample is presented."""
        return self.shares[0]

    @property
    def spikes_per_sample(self) -> float:
        """Spikes of the whole layer while one sample is presented."""
        return self.rate * self.neurons * (len(self.shares) - 1)


@dataclass(frozen=True)
class Sparsity:
    """How a network fired on its test set.

    Args:
        dataset: name of the data set.
        arch: architecture of the network.
        steps: time steps T.
        samples: number of test samples.
        epochs: epochs of training before.
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
        """Rows of text, the heading first: per cent of neurons by number of spikes, for each layer and overall."""
        bounds = [bound for bound in TABLE_COUNTS if bound < self.steps] + [self.steps]
        starts = [0] + [bound + 1 for bound in bounds[:-1]]
        spans = list(zip(starts, bounds, strict=True))
        heading = [f"{first}" if first == last else f"{first}-{last}" for first, last in spans]
        rows = [["layer", "neurons", "spikes/sample", "rate", *(f"fire {span}" for span in heading)]]
        for layer in (*self.layers, self.overall):
            shares = [f"{sum(layer.shares[first : last + 1]):.1%}" for first, last in spans]
            counted = [str(layer.neurons), f"{layer.spikes_per_sample:.1f}", f"{layer.rate:.4f}"]
            rows.append([layer.name, *counted, *shares])
        return rows

    def as_dict(self) -> dict[str, Any]:
        """The same as plain containers, for JSON."""

        def plain(layer: LayerSparsity) -> dict[str, Any]:
            return {
                "name": layer.name,
                "neurons": layer.neurons,
                "spikes_per_sample": layer.spikes_per_sample,
                "rate": layer.rate,
                "share_firing_k_times": list(layer.shares),
                "share_by_rate": list(layer.rates),
            }

        return {
            "dataset": self.dataset,
            "arch": self.arch,
            "steps": self.steps,
            "samples": self.samples,
            "epochs": self.epochs,
            "accuracy": self.accuracy,
            "rate_bins": [k / RATE_BINS for k in range(RATE_BINS + 1)],
            "layers": [plain(layer) for layer in self.layers],
            "overall": plain(self.overall),
        }


def measure(trainer: Trainer) -> Sparsity:
    """Run the network of ``trainer`` over its test set and count spikes.

    Raises:
        ConfigError: if the network has no spiking layers.
    """
    config = trainer.config
    layers = spiking_layers(trainer.network)
    if not layers:
        raise ConfigError(f"rule {config.rule!r} has no spiking neurons whose firing could be counted")
    with counting(layers, config.steps) as counters:
        result = trainer.test()
    if result is None:
        raise AssertionError("a test that nothing can stop was stopped")
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


def spiking_layers(network: nn.Module) -> dict[str, LIF]:
    """The layers with neurons, from input to output: ``conv 1``, ``conv 2``, ``full 1``, ..., ``output``."""
    layers = [module for module in network.modules() if isinstance(module, LIF)]
    names: list[str] = []
    numbers = {"conv": 0, "full": 0, "neurons": 0}
    for layer in layers:
        kind = {SpikingConv2d: "conv", SpikingLinear: "full"}.get(type(layer), "neurons")
        numbers[kind] += 1
        names.append(f"{kind} {numbers[kind]}")
    return dict(zip([*names[:-1], "output"], layers, strict=True)) if layers else {}


@contextlib.contextmanager
def counting(layers: Mapping[str, LIF], steps: int) -> Iterator[dict[str, SpikeCounter]]:
    """A counter of each layer's spikes, of whatever is presented to the network within the context."""
    counters = {name: SpikeCounter(steps) for name in layers}
    hooks = [layer.register_forward_hook(counters[name].add) for name, layer in layers.items()]
    try:
        yield counters
    finally:
        for hook in hooks:
            hook.remove()


def summed(name: str, counters: Sequence[SpikeCounter]) -> LayerSparsity:
    """Counts of one or several layers, each neuron weighing the same.

    Raises:
        ValueError: if a counter has counted nothing.
    """
    totals = [counter.spikes for counter in counters]
    if not totals or any(total is None for total in totals):
        raise ValueError(f"counters of {name} must have counted at least one batch each")
    spikes = torch.cat([total for total in totals if total is not None])
    fired = torch.stack([counter.fired for counter in counters]).sum(0)
    rates = spikes.double() / (counters[0].steps * counters[0].samples)
    # A rate of exactly 1 belongs into the last bin.
    bins = (rates * RATE_BINS).long().clamp_(max=RATE_BINS - 1)
    histogram = torch.bincount(bins, minlength=RATE_BINS).double() / len(rates)
    shares = fired.double() / fired.sum()
    return LayerSparsity(name, len(spikes), tuple(shares.tolist()), tuple(histogram.tolist()), float(rates.mean()))


def write(folder: Path, sparsity: Sparsity, title: str) -> None:
    """Write ``sparsity.json`` and ``sparsity.png`` into ``folder``, atomically.

    Raises:
        MissingExtraError: if matplotlib is not installed; the JSON file is there then.
    """
    content = json.dumps(sparsity.as_dict(), indent=1) + "\n"
    write_atomically(folder / "sparsity.json", lambda file: file.write(content.encode()))
    draw(folder / "sparsity.png", sparsity, title)


def draw(path: Path, sparsity: Sparsity, title: str) -> None:
    """Draw both views into the PNG file ``path``, atomically: bars for all neurons, a line for each layer.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    figure_module = require("matplotlib.figure", "train", "the figure of firing sparsity")
    ticker = require("matplotlib.ticker", "train", "the figure of firing sparsity")
    figure = figure_module.Figure(figsize=(11, 5), layout="constrained")
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
        # Shares span from most of all neurons to a few in a million; on a linear scale only the silent would show.
        axes.set_yscale("symlog", linthresh=0.1)
        axes.set_ylim(0, 100)
        axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes.grid(alpha=0.3)
        # Below the axes: eight layers and their lines would not fit side by side within.
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 3, "frameon": False}
        axes.legend(fontsize="small", title="bars: all neurons", title_fontsize="small", **below)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
