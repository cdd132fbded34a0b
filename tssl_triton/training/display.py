"""Progress of a training for the user: a progress bar, lines, and figures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tssl_triton._extras import MissingExtraError, require
from tssl_triton._files import write_atomically

from .trainer import Reading

Item = TypeVar("Item")


class Display:
    """Shows a training; a run calls the methods in this order. This class shows nothing."""

    def begin(self, epoch: int, epochs: int, batch: int, batches: int) -> None:
        """An epoch starts or continues, with ``batch`` of its ``batches`` complete."""

    def update(self, reading: Reading) -> None:
        """The epoch has reached ``reading``."""

    def close(self) -> None:
        """The epoch ended or was interrupted."""

    def end(self, metrics: dict[str, Any], epochs: int) -> None:
        """The epoch is complete and saved."""


class Lines(Display):
    """One line per complete epoch, for files and pipes.

    Args:
        say: prints a line.
    """

    def __init__(self, say: Callable[[str], None] = print) -> None:
        self._say = say

    def end(self, metrics: dict[str, Any], epochs: int) -> None:
        """Print the epoch's metrics."""
        self._say(
            f"epoch {metrics['epoch']}/{epochs}  loss {metrics['loss']:.4f}  "
            f"train {metrics['train_accuracy']:.2%}  test {metrics['test_accuracy']:.2%}  "
            f"{metrics['seconds']:.1f} s  {metrics['images_per_second']:.0f} images/s"
        )


class Bar(Lines):
    """A progress bar per epoch, with loss, accuracy, images per second and remaining time; then the epoch's line.

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
        """Advance the bar to the reading's batch."""
        self._bar.set_postfix_str(
            f"loss {reading.loss:.4f}, accuracy {reading.accuracy:.2%}, {reading.images_per_second:.0f} images/s",
            refresh=False,
        )
        self._bar.update(reading.batch - self._bar.n)
        self._bar.refresh()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def choose_display(progress: str, say: Callable[[str], None] = print) -> Display:
    """The display for a value of ``--progress``.

    Args:
        progress: ``"bar"``, ``"lines"``, or ``"auto"``: a bar if standard error is a terminal.
        say: prints a line.

    Raises:
        MissingExtraError: for ``"bar"`` if tqdm is not installed.
    """
    return Bar(say) if _shows_bar(progress, say) else Lines(say)


#: Passes items on one by one and shows how many are done; the text describes them.
Tracker = Callable[[Sequence[Item], str], Iterable[Item]]


def untracked(items: Sequence[Item], text: str) -> Iterable[Item]:
    """The items, without output."""
    return items


def choose_tracker(progress: str, say: Callable[[str], None] = print) -> Tracker[Any]:
    """The progress bar of work other than training, removed when the work is done; `untracked` if there is none.

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


def new_figure(purpose: str, width: float, height: float) -> Any:
    """An empty matplotlib ``Figure``, created without pyplot: no window system, no global state.

    Raises:
        MissingExtraError: if matplotlib, which ``purpose`` needs, is not installed.
    """
    module = require("matplotlib.figure", "train", purpose)
    return module.Figure(figsize=(width, height), layout="constrained")


def label_epochs(axes: Any) -> None:
    """Label the x axis "epoch", with ticks at whole numbers only."""
    ticker = require("matplotlib.ticker", "train", "a figure")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))


def save_figure(path: Path, figure: Any) -> None:
    """Write ``figure`` to the PNG file ``path``, atomically."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))


def draw_learning_curve(path: Path, history: list[dict[str, Any]], title: str) -> None:
    """Draw loss and accuracy over the epochs into the PNG file ``path``, atomically.

    Args:
        path: file to write.
        history: metrics of the epochs, as in ``metrics.jsonl``.
        title: heading of the figure.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    figure = new_figure("the learning curve", 9, 3.6)
    epochs = [metrics["epoch"] for metrics in history]
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
        label_epochs(axes)
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        axes.grid(alpha=0.3)
        axes.margins(y=0.1)
    save_figure(path, figure)
