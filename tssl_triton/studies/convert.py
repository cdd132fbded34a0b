"""Conversion of a trained ANN: accuracy of the spiking network after several numbers of time steps."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tssl_triton._checks import check_count
from tssl_triton._extras import require
from tssl_triton._files import write_text
from tssl_triton.data import epoch_order
from tssl_triton.nn import ANN, activation_scales, convert
from tssl_triton.nn.conversion import ConvertedNetwork, check_initial, check_marks, check_percentile
from tssl_triton.training import ConfigError, Trainer, new_figure, save_figure

from .results import aligned, per_cent

#: Default numbers of time steps after which a converted network is tested.
MARKS = (5, 10, 20, 50, 100, 200, 400)


@dataclass(frozen=True)
class Conversion:
    """Results of a converted network; accuracies in [0, 1].

    Args:
        dataset: of training and test.
        arch: architecture.
        epochs: complete epochs of the ANN's training.
        percentile: of the activations that correspond to a firing rate of 1.
        samples: number of training images over which it was measured.
        initial: membrane potential at the first step, as a share of the threshold.
        scales: that percentile for each rectified layer.
        ann_accuracy: of the ANN itself.
        steps: numbers of time steps.
        accuracies: of the converted network after each of them.
    """

    dataset: str
    arch: str
    epochs: int
    percentile: float
    samples: int
    initial: float
    scales: tuple[float, ...]
    ann_accuracy: float
    steps: tuple[int, ...]
    accuracies: tuple[float, ...]

    def table(self) -> list[str]:
        """Lines of a table: accuracy after each number of steps, and its difference from the ANN's."""
        rows = [["time steps", "accuracy", "minus ANN"]]
        for steps, accuracy in zip(self.steps, self.accuracies, strict=True):
            rows.append([str(steps), per_cent(accuracy), f"{100 * (accuracy - self.ann_accuracy):+.2f}"])
        return aligned([*rows, ["ANN", per_cent(self.ann_accuracy), ""]])

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON; accuracies are per cent."""
        return {
            **dataclasses.asdict(self),
            "ann_accuracy": 100 * self.ann_accuracy,
            "accuracies": [100 * accuracy for accuracy in self.accuracies],
        }


def converted(
    trainer: Trainer, percentile: float = 99.9, samples: int = 1000, initial: float = 0.0
) -> tuple[ConvertedNetwork, list[float]]:
    """The network of ``trainer`` as a spiking one, and the scales of its layers.

    Args:
        trainer: of a run with rule ``"ann"``.
        percentile: see `tssl_triton.nn.activation_scales`.
        samples: training images over which to measure it, drawn by the run's seed; all of them if there are fewer.
        initial: see `tssl_triton.convert`.

    Raises:
        ConfigError: for a network with spikes.
        ConversionError, ValueError: as the functions named above.
    """
    ann, images, config = trainer.network, trainer.images, trainer.config
    if not isinstance(ann, ANN):
        raise ConfigError(f"rule of the run must be 'ann' for its network to be converted, got {config.rule!r}")
    order = epoch_order(len(images.train_labels), config.seed, 0)[:samples].to(images.train_labels.device)
    batches = (images.train_batch(indices)[0] for indices in order.split(config.test_batch_size))
    shown = (ann.images(images.present(values, config.steps)) for values in batches)
    scales = activation_scales(ann, shown, len(order), percentile)
    return convert(ann, scales, initial), scales


def measure(
    trainer: Trainer,
    marks: Sequence[int] = MARKS,
    percentile: float = 99.9,
    samples: int = 1000,
    initial: float = 0.0,
) -> Conversion:
    """Convert the network of ``trainer`` and test it after each number of time steps in ``marks``, ascending.

    Raises:
        ConfigError: for a network with spikes, or an argument that is out of range.
        ConversionError: for a network that cannot be converted.
    """
    try:
        check_marks(marks)
        check_percentile(percentile)
        check_initial(initial)
        check_count("samples", samples)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error
    network, scales = converted(trainer, percentile, samples, initial)
    ann, images, config = trainer.network, trainer.images, trainer.config
    assert isinstance(ann, ANN)
    count, size = len(images.test_labels), config.test_batch_size
    correct = torch.zeros(len(marks), dtype=torch.int64, device=trainer.device)
    for start in range(0, count, size):
        values, labels = images.test_batch(start, min(start + size, count))
        logits = network(ann.images(images.present(values, config.steps)), marks)
        correct += (logits.argmax(2) == labels).sum(1)
    own = trainer.test()
    assert own is not None
    return Conversion(
        dataset=config.dataset,
        arch=config.arch,
        epochs=trainer.epoch,
        percentile=percentile,
        samples=min(samples, len(images.train_labels)),
        initial=initial,
        scales=tuple(scales),
        ann_accuracy=own.accuracy,
        steps=tuple(marks),
        accuracies=tuple(hits / count for hits in correct.tolist()),
    )


def write(folder: Path, conversion: Conversion) -> None:
    """Write ``conversion.json`` and ``conversion.png`` into ``folder``, atomically.

    Raises:
        MissingExtraError: if matplotlib is not installed; the JSON file is written before.
    """
    write_text(folder / "conversion.json", json.dumps(conversion.as_dict(), indent=1) + "\n")
    figure = new_figure("the figure of the conversion", 6, 4)
    ticker = require("matplotlib.ticker", "train", "the figure of the conversion")
    axes = figure.subplots()
    axes.set_title(f"{conversion.dataset}  {conversion.arch}, converted after {conversion.epochs} epochs", fontsize=10)
    ann = conversion.ann_accuracy
    axes.axhline(100 * ann, ls="--", color="tab:red", label=f"ANN, {per_cent(ann)}")
    label = f"spiking, percentile {conversion.percentile:g}, initial potential {conversion.initial:g}"
    axes.plot(conversion.steps, [100 * accuracy for accuracy in conversion.accuracies], "o-", label=label)
    axes.set_xscale("log")
    axes.set_xticks(conversion.steps)
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%d"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel("time steps")
    axes.set_ylabel("test accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    save_figure(folder / "conversion.png", figure)
