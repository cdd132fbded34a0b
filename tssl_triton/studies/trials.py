"""Several trainings under one folder: run, resumed, spread over devices, and summed up.

A trial is an ordinary run folder, ``OUT/<name>/seed-<k>``, as ``tssl train --run-dir`` makes it
(`tssl_triton.training.run`).
So a folder that was made that way with the same settings counts as the trial, a finished trial is only read, a
half-done one goes on where its checkpoint is, and the command that was interrupted is also the one that goes on.

    outcome = run_trials(Path("trials"), [*repeated("wide", wide, 5), *repeated("narrow", narrow, 5)])
    for name, summary in outcome.summaries().items():
        print(name, summary.mean, summary.std, summary.best)
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tssl_triton._extras import MissingExtraError
from tssl_triton.data import DataError
from tssl_triton.training.checkpoint import CheckpointError
from tssl_triton.training.config import MAY_CHANGE, ConfigError, TrainConfig, read_toml
from tssl_triton.training.display import Display, Lines
from tssl_triton.training.recipes import FOLDER_NAME, FOLDER_NAME_WORDS
from tssl_triton.training.run import Run, resuming
from tssl_triton.training.trainer import TrainingError

#: What can go wrong with one trial while the others may well succeed.
TRIAL_ERRORS = (CheckpointError, ConfigError, DataError, MissingExtraError, OSError, TrainingError)


@dataclass(frozen=True)
class Trial:
    """One training to be done: settings, and the name under which trials that differ by their seed are summed up.

    Args:
        name: a folder name: letters, digits and ``. _ = + -``.
        config: all settings; the seed is in it.

    Raises:
        ValueError: for a name that is no folder name.
    """

    name: str
    config: TrainConfig

    def __post_init__(self) -> None:
        if not FOLDER_NAME.fullmatch(self.name):
            raise ValueError(f"name must be {FOLDER_NAME_WORDS}; got {self.name!r}")

    def folder(self, out: Path) -> Path:
        """Where the trial's run is kept."""
        return out / self.name / f"seed-{self.config.seed}"

    def __str__(self) -> str:
        return f"{self.name}, seed {self.config.seed}"


def repeated(name: str, config: TrainConfig, trials: int) -> list[Trial]:
    """``trials`` trials of one name that differ by their seeds: that of ``config`` and the ones after it."""
    return [Trial(name, dataclasses.replace(config, seed=config.seed + k)) for k in range(trials)]


@dataclass(frozen=True)
class TrialResult:
    """What a trial gave so far.

    Args:
        trial: the trial.
        folder: its run folder.
        history: metrics of its complete epochs, as in ``metrics.jsonl``; at least one.
    """

    trial: Trial
    folder: Path
    history: list[dict[str, Any]]

    @property
    def complete(self) -> bool:
        """Whether all its epochs are done."""
        return len(self.history) >= self.trial.config.epochs

    @property
    def accuracies(self) -> list[float]:
        """Test accuracy after each epoch, in [0, 1]."""
        return [metrics["test_accuracy"] for metrics in self.history]

    @property
    def best(self) -> float:
        """Test accuracy of the best epoch; this is what papers of the field report."""
        return max(self.accuracies)

    @property
    def best_epoch(self) -> int:
        """The first epoch that reached `best`, counted from 1."""
        return self.accuracies.index(self.best) + 1

    @property
    def last(self) -> float:
        """Test accuracy after the last epoch."""
        return self.accuracies[-1]


@dataclass(frozen=True)
class Summary:
    """Trials of one name, summed up; accuracies in [0, 1].

    Args:
        name: of the trials.
        results: one per trial, at least one.
    """

    name: str
    results: tuple[TrialResult, ...]

    @property
    def counted(self) -> tuple[TrialResult, ...]:
        """Trials that means and deviations are of: the complete ones; where there is none, those under way."""
        return tuple(result for result in self.results if result.complete) or self.results

    @property
    def mean(self) -> float:
        """Mean over trials of the accuracy of each one's best epoch."""
        return statistics.fmean(result.best for result in self.counted)

    @property
    def std(self) -> float | None:
        """Sample standard deviation (divisor n - 1) of the same; None for one trial, which has none."""
        return _deviation([result.best for result in self.counted])

    @property
    def best(self) -> float:
        """Accuracy of the best epoch of all trials."""
        return max(result.best for result in self.results)

    @property
    def last_mean(self) -> float:
        """Mean over trials of the accuracy after the last epoch."""
        return statistics.fmean(result.last for result in self.counted)

    @property
    def last_std(self) -> float | None:
        """Sample standard deviation of the same; None for one trial."""
        return _deviation([result.last for result in self.counted])

    @property
    def epochs(self) -> int:
        """Epochs that every counted trial has done."""
        return min(len(result.history) for result in self.counted)

    @property
    def seconds_per_epoch(self) -> float:
        """Mean training time of an epoch, the test left out."""
        return statistics.fmean(metrics["seconds"] for result in self.results for metrics in result.history)


@dataclass(frozen=True)
class Failure:
    """A trial that could not be done, and why."""

    trial: Trial
    error: str


@dataclass(frozen=True)
class Outcome:
    """All that is known about a list of trials at some moment.

    Args:
        results: of the trials with at least one complete epoch, in the order of the trials.
        failures: trials that ended with an error.
        interrupted: whether the user stopped it.
    """

    results: tuple[TrialResult, ...]
    failures: tuple[Failure, ...] = ()
    interrupted: bool = False

    def summaries(self) -> dict[str, Summary]:
        """One summary per name, in the order of the trials."""
        names = dict.fromkeys(result.trial.name for result in self.results)
        return {name: Summary(name, tuple(r for r in self.results if r.trial.name == name)) for name in names}


def run_trials(
    out: Path,
    trials: Sequence[Trial],
    *,
    devices: Sequence[str] | None = None,
    display: Display | None = None,
    say: Callable[[str], None] = print,
    after_each: Callable[[Outcome], object] = lambda outcome: None,
) -> Outcome:
    """Train every trial that is not finished, one after another or one per device.

    Ctrl-C (or SIGTERM) saves the trials under way and returns; calling again goes on with them. A trial that fails,
    for want of its data set for instance, is recorded and the others go on.

    Args:
        out: folder of all trials.
        trials: what to train.
        devices: devices to spread the trials over, one process each, whatever device their settings name. If not
            given: all GPUs where there are several and every trial's device is ``auto``; otherwise the trials run
            in this process, on their own device.
        display: shows the epochs of a training in this process; one line per epoch if not given. With several
            devices it is always lines.
        say: prints a line to the user.
        after_each: told the state of things whenever a trial ends.

    Returns:
        Every trial with its metrics, those that were finished before included.

    Raises:
        ValueError: if two trials share a folder.
        ConfigError: if a trial's folder holds a run with other settings; nothing was trained then.
    """
    folders = [trial.folder(out) for trial in trials]
    if len(set(folders)) < len(folders):
        raise ValueError("trials must differ in name or seed: two of them share a folder")
    finished = {result.folder for result in collect(out, trials).results if result.complete}
    waiting = [trial for trial, folder in zip(trials, folders, strict=True) if folder not in finished]
    failures: list[Failure] = []

    def ended(trial: Trial, error: str | None) -> None:
        if error is not None:
            say(f"{trial}: {error}")
            failures.append(Failure(trial, error))
        after_each(dataclasses.replace(collect(out, trials), failures=tuple(failures)))

    if finished:
        say(f"{len(finished)} of {len(trials)} trials are finished already")
    devices = _devices_for(waiting) if devices is None else tuple(devices)
    if len(devices) > 1 and len(waiting) > 1:
        from .parallel import run_in_processes

        complete = run_in_processes(out, waiting, devices, say, ended)
    else:
        display = Lines(say) if display is None else display
        placed = [on_device(trial, devices[0]) for trial in waiting] if devices else waiting
        complete = _run_in_turn(out, placed, display, say, ended)
    return dataclasses.replace(collect(out, trials), failures=tuple(failures), interrupted=not complete)


def collect(out: Path, trials: Sequence[Trial]) -> Outcome:
    """What the folders of ``trials`` hold now, finished or not; nothing is trained and nothing written.

    Raises:
        ConfigError: if a folder holds a run with other settings, naming the setting.
        CheckpointError: if its metrics cannot be read.
    """
    results = []
    for trial in trials:
        folder = trial.folder(out)
        if folder.exists():
            _check_same(trial, folder)
            history = read_metrics(folder)
            if history:
                results.append(TrialResult(trial, folder, history))
    return Outcome(tuple(results))


def train_trial(out: Path, trial: Trial, display: Display, say: Callable[[str], None] = print) -> bool:
    """Train one trial in this process, from its beginning or on; whether it reached its last epoch.

    Raises:
        Any of `TRIAL_ERRORS`.
    """
    folder = trial.folder(out)
    if folder.exists():
        placement = {name: getattr(trial.config, name) for name in MAY_CHANGE}
        run = Run.resume(folder, placement, say)
        say(f"{trial}: resuming after {run.trainer.epoch} epochs and {run.trainer.batch} batches")
    else:
        run = Run.create(folder, trial.config, say)
    return run.train(display)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Metrics of the complete epochs of the run in ``folder``.

    Raises:
        CheckpointError: if they are missing or damaged.
    """
    path = folder / "metrics.jsonl"
    try:
        history = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for number, metrics in enumerate(history, 1):
            if metrics["epoch"] != number or not 0 <= metrics["test_accuracy"] <= 1:
                raise ValueError(f"line {number} is not that of epoch {number}")
    except FileNotFoundError as error:
        raise CheckpointError(f"no metrics at {path}: {folder} is not the folder of a run") from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"metrics {path} are damaged: {error}; the checkpoint has them too, written anew by: {resuming(folder)}"
        ) from error
    return history


def on_device(trial: Trial, device: str) -> Trial:
    """The same trial on another device."""
    return dataclasses.replace(trial, config=dataclasses.replace(trial.config, device=device))


def _run_in_turn(
    out: Path,
    trials: Sequence[Trial],
    display: Display,
    say: Callable[[str], None],
    ended: Callable[[Trial, str | None], None],
) -> bool:
    """Train the trials one after another in this process; False once the user interrupts one."""
    missing: dict[tuple[str, str], str] = {}
    for number, trial in enumerate(trials, 1):
        say(f"[{number}/{len(trials)}] {trial}")
        # What one trial found missing the next one with the same data need not look for, or download, again.
        source = trial.config.dataset, trial.config.data_root
        try:
            if source in missing:
                raise DataError(missing[source])
            if not train_trial(out, trial, display, say):
                return False
        except TRIAL_ERRORS as error:
            if isinstance(error, DataError):
                missing[source] = str(error)
            ended(trial, str(error))
        else:
            ended(trial, None)
    return True


def _devices_for(trials: Sequence[Trial]) -> tuple[str, ...]:
    if any(trial.config.device != "auto" for trial in trials):
        return ()
    count = torch.cuda.device_count()
    return tuple(f"cuda:{index}" for index in range(count)) if count > 1 else ()


def _check_same(trial: Trial, folder: Path) -> None:
    """Raise ConfigError unless the run in ``folder`` is one of the trial's settings."""
    saved = TrainConfig(**read_toml(folder / "config.toml"))
    wanted = trial.config
    for field in dataclasses.fields(TrainConfig):
        before, now = getattr(saved, field.name), getattr(wanted, field.name)
        if before != now and field.name not in MAY_CHANGE:
            raise ConfigError(
                f"{folder} holds a run with {field.name} {before!r}, the trial has {now!r}: "
                "name another output folder, or move that one away"
            )
    # Under a schedule that ends with the run, the number of epochs decides the learning rate of each of them.
    if saved.epochs != wanted.epochs and (saved.schedule != "constant" or wanted.epochs < len(read_metrics(folder))):
        raise ConfigError(
            f"{folder} holds a run of {saved.epochs} epochs with schedule {saved.schedule!r}, the trial has "
            f"{wanted.epochs} epochs: ask for {saved.epochs}, or name another output folder"
        )


def _deviation(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
