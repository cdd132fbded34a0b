"""Telling the user how a training goes: a progress bar, lines, and the learning curve."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tssl_triton._extras import MissingExtraError, require

from .checkpoint import write_atomically
from .trainer import Reading

Item = TypeVar("Item")


class Display(Protocol):
    """What is shown of a training, in the order in which a run calls it."""

    def begin(self, epoch: int, epochs: int, batch: int, batches: int) -> None:
        """An epoch begins, or goes on, with ``batch`` of its ``batches`` done."""

    def update(self, reading: Reading) -> None:
        """The epoch got as far as ``reading``."""

    def close(self) -> None:
        """The epoch ended or was broken off."""

    def end(self, metrics: dict[str, Any], epochs: int) -> None:
        """The epoch is complete and saved."""


class Lines:
    """One line per complete epoch, for files and pipes.

    Args:
        say: prints a line.
    """

    def __init__(self, say: Callable[[str], None] = print) -> None:
        self._say = say

    def begin(self, epoch: int, epochs: int, batch: int, batches: int) -> None:
        """Nothing: a line is printed when there is a result."""

    def update(self, reading: Reading) -> None:
        """Nothing, for the same reason."""

    def close(self) -> None:
        """Nothing, for the same reason."""

    def end(self, metrics: dict[str, Any], epochs: int) -> None:
        """Print the epoch's metrics."""
        self._say(
            f"epoch {metrics['epoch']}/{epochs}  loss {metrics['loss']:.4f}  "
            f"train {metrics['train_accuracy']:.2%}  test {metrics['test_accuracy']:.2%}  "
            f"{metrics['seconds']:.1f} s  {metrics['images_per_second']:.0f} images/s"
        )


class Bar(Lines):
    """A progress bar per epoch, with loss, accuracy, images per second and time left; then the epoch's line.

    Raises:
        MissingExtraError: if tqdm is not installed.
    """

    def __init__(self, say: Callable[[str], None] = print) -> None:
        super().__init__(say)
        self._tqdm = require("tqdm", "train", "the progress bar").tqdm
        self._bar: Any = None

    def begin(self, epoch: int, epochs: int, batch: int, batches: int) -> None:
        """Open the bar."""
        self._bar = self._tqdm(
            total=batches,
            initial=batch,
            desc=f"epoch {epoch}/{epochs}",
            unit="batch",
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed} < {remaining}{postfix}",
        )

    def update(self, reading: Reading) -> None:
        """Move the bar on to the reading's batch."""
        self._bar.set_postfix_str(
            f"loss {reading.loss:.4f}, accuracy {reading.accuracy:.2%}, {reading.images_per_second:.0f} images/s",
            refresh=False,
        )
        self._bar.update(reading.batch - self._bar.n)
        self._bar.refresh()

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


def choose_display(progress: str, say: Callable[[str], None] = print) -> Display:
    """The display of a name.

    Args:
        progress: ``"bar"``, ``"lines"``, or ``"auto"``: a bar where standard error is a terminal.
        say: prints a line.

    Raises:
        MissingExtraError: if a bar was asked for by name and tqdm is not installed.
    """
    return Bar(say) if _shows_bar(progress, say) else Lines(say)


#: What passes items on, one after the other, and shows how many are done; the text says of what.
Tracker = Callable[[Sequence[Item], str], Iterable[Item]]


def untracked(items: Sequence[Item], text: str) -> Iterable[Item]:
    """The items, with nothing shown."""
    return items


def choose_tracker(progress: str, say: Callable[[str], None] = print) -> Tracker[Any]:
    """What shows the progress of work that is no training: a bar that goes away when it is done, or nothing.

    Args, and Raises: as `choose_display`.
    """
    if not _shows_bar(progress, say):
        return untracked
    tqdm = require("tqdm", "train", "the progress bar").tqdm
    return lambda items, text: tqdm(items, desc=text, leave=False, dynamic_ncols=True)


def _shows_bar(progress: str, say: Callable[[str], None]) -> bool:
    if progress == "lines" or (progress == "auto" and not (sys.stderr and sys.stderr.isatty())):
        return False
    try:
        require("tqdm", "train", "the progress bar")
    except MissingExtraError as error:
        if progress == "bar":
            raise
        say(f"no progress bar: {error}")
        return False
    return True


def draw_learning_curve(path: Path, history: list[dict[str, Any]], title: str) -> None:
    """Draw loss and accuracy over the epochs into the PNG file ``path``, atomically.

    Args:
        path: file to write.
        history: metrics of the epochs, as in ``metrics.jsonl``.
        title: heading of the figure.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    figure_module = require("matplotlib.figure", "train", "the learning curve")
    ticker = require("matplotlib.ticker", "train", "the learning curve")
    epochs = [metrics["epoch"] for metrics in history]

    # A Figure of its own, without pyplot: no window system is touched and nothing global is changed.
    figure = figure_module.Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    loss_axes.plot(epochs, [metrics["loss"] for metrics in history], "o-", color="tab:blue")
    loss_axes.set_ylabel("training loss per image")
    loss_axes.set_ylim(bottom=0)
    for name, color in (("train", "tab:blue"), ("test", "tab:orange")):
        values = [100 * metrics[f"{name}_accuracy"] for metrics in history]
        accuracy_axes.plot(epochs, values, "o-", color=color, label=f"{name}, {values[-1]:.2f} %")
    accuracy_axes.set_ylabel("accuracy (%)")
    accuracy_axes.legend(loc="lower right")
    for axes in (loss_axes, accuracy_axes):
        axes.set_xlabel("epoch")
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.margins(y=0.1)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
