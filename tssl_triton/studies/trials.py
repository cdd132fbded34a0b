"""Several trainings in one folder: trained, resumed, distributed over devices, and summarised.

A trial is an ordinary run folder, ``OUT/<name>/seed-<k>``, as ``tssl train --run-dir`` makes it. So a folder made that
way with the same settings counts as the trial; a finished trial is only read; an unfinished one continues from its
checkpoint; and running the same command again continues after an interruption.

    outcome = run_trials(Path("trials"), [*repeated("wide", wide, 5), *repeated("narrow", narrow, 5)])
    for name, summary in outcome.summaries().items():
        print(name, summary.mean, summary.std, summary.best)
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import multiprocessing.connection
import os
import queue
import statistics
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tssl_triton._errors import UserError
from tssl_triton.data import DataError
from tssl_triton.training import (
    MAY_CHANGE,
    CheckpointError,
    ConfigError,
    Display,
    Lines,
    Run,
    StopRequest,
    TrainConfig,
    read_toml,
    resuming,
)
from tssl_triton.training.recipes import FOLDER_NAME, FOLDER_NAME_RULE

#: Errors that end one trial; the others continue.
TRIAL_ERRORS = (UserError, OSError)

#: Called with a trial that has ended, and its error if it failed.
Ended = Callable[["Trial", "str | None"], None]


@dataclass(frozen=True)
class Trial:
    """One training: its settings, and the name under which trials that differ only by seed are summarised.

    Args:
        name: a folder name: letters, digits and ``. _ = + -``.
        config: all settings, including the seed.

    Raises:
        ValueError: for an invalid folder name.
    """

    name: str
    config: TrainConfig

    def __post_init__(self) -> None:
        if not FOLDER_NAME.fullmatch(self.name):
            raise ValueError(f"name must be {FOLDER_NAME_RULE}; got {self.name!r}")

    def folder(self, out: Path) -> Path:
        """The trial's run folder."""
        return out / self.name / f"seed-{self.config.seed}"

    def on_device(self, device: str) -> Trial:
        """The same trial on another device."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, device=device))

    def __str__(self) -> str:
        return f"{self.name}, seed {self.config.seed}"


def repeated(name: str, config: TrainConfig, trials: int) -> list[Trial]:
    """``trials`` trials of one name whose seeds count up from that of ``config``."""
    return [Trial(name, dataclasses.replace(config, seed=config.seed + k)) for k in range(trials)]


@dataclass(frozen=True)
class TrialResult:
    """The results of a trial so far.

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
        """Whether all epochs are complete."""
        return len(self.history) >= self.trial.config.epochs

    @property
    def accuracies(self) -> list[float]:
        """Test accuracy after each epoch, in [0, 1]."""
        return [metrics["test_accuracy"] for metrics in self.history]

    @property
    def best(self) -> float:
        """Test accuracy of the best epoch, which papers of the field report."""
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
    """Statistics over the trials of one name; accuracies in [0, 1].

    Args:
        name: of the trials.
        results: one per trial, at least one.
    """

    name: str
    results: tuple[TrialResult, ...]

    @property
    def counted(self) -> tuple[TrialResult, ...]:
        """Trials that enter means and deviations: the complete ones, or all if none is complete."""
        return tuple(result for result in self.results if result.complete) or self.results

    @property
    def mean(self) -> float:
        """Mean over trials of each trial's best accuracy."""
        return statistics.fmean(result.best for result in self.counted)

    @property
    def std(self) -> float | None:
        """Sample standard deviation (divisor n - 1) of the same; None for one trial."""
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
        """Number of epochs that every counted trial has completed."""
        return min(len(result.history) for result in self.counted)

    @property
    def seconds_per_epoch(self) -> float:
        """Mean training time of an epoch, without the test."""
        return statistics.fmean(metrics["seconds"] for result in self.results for metrics in result.history)


@dataclass(frozen=True)
class Failure:
    """A trial that failed, and the error message."""

    trial: Trial
    error: str


@dataclass(frozen=True)
class Outcome:
    """The current results of a list of trials.

    Args:
        results: of the trials with at least one complete epoch, in the order of the trials.
        failures: trials that ended with an error.
        interrupted: whether the user interrupted the training.
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
    """Train every unfinished trial, one after another or one per device.

    Ctrl-C (or SIGTERM) saves the current trials and returns; calling again continues them. If a trial fails, for
    example because its data set is missing, the failure is recorded and the other trials continue.

    Args:
        out: folder of all trials.
        trials: the trials.
        devices: devices to distribute the trials over, one process each, overriding the trials' own. If not given:
            all GPUs if there are several and every trial's device is ``auto``; otherwise the trials run in this
            process, on their own device.
        display: shows the epochs of a training in this process; one line per epoch if not given. With several
            devices it is always lines.
        say: prints a line to the user.
        after_each: receives the current results whenever a trial ends.

    Returns:
        Every trial with its metrics, including those that were already finished.

    Raises:
        ValueError: if two trials share a folder.
        ConfigError: if a trial's folder contains a run with other settings; nothing was trained then.
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
        say(f"{len(finished)} of {len(trials)} trials are already finished")
    devices = _devices_for(waiting) if devices is None else tuple(devices)
    if len(devices) > 1 and len(waiting) > 1:
        complete = _run_in_processes(out, waiting, devices, say, ended)
    else:
        placed = [trial.on_device(devices[0]) for trial in waiting] if devices else waiting
        complete = _run_in_turn(out, placed, display or Lines(say), say, ended)
    return dataclasses.replace(collect(out, trials), failures=tuple(failures), interrupted=not complete)


def collect(out: Path, trials: Sequence[Trial]) -> Outcome:
    """Read the current results in the folders of ``trials``; trains and writes nothing.

    Raises:
        ConfigError: if a folder contains a run with other settings, naming the setting.
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
    """Train one trial in this process, from scratch or from its checkpoint; returns whether it is complete.

    Raises:
        Any of `TRIAL_ERRORS`.
    """
    folder = trial.folder(out)
    if folder.exists():
        run = Run.resume(folder, {name: getattr(trial.config, name) for name in MAY_CHANGE}, say)
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
            f"metrics {path} are damaged: {error}; restore them from the checkpoint with: {resuming(folder)}"
        ) from error
    return history


def _devices_for(trials: Sequence[Trial]) -> tuple[str, ...]:
    if any(trial.config.device != "auto" for trial in trials):
        return ()
    count = torch.cuda.device_count()
    return tuple(f"cuda:{index}" for index in range(count)) if count > 1 else ()


def _check_same(trial: Trial, folder: Path) -> None:
    """Raise ConfigError unless the run in ``folder`` has the trial's settings."""
    saved = TrainConfig(**read_toml(folder / "config.toml"))
    wanted = trial.config
    for field in dataclasses.fields(TrainConfig):
        before, now = getattr(saved, field.name), getattr(wanted, field.name)
        if before != now and field.name not in MAY_CHANGE:
            raise ConfigError(
                f"{folder} contains a run with {field.name} {before!r}, the trial has {now!r}: "
                "choose another output folder, or move that one away"
            )
    # Under a schedule that ends with the run, the number of epochs determines the learning rate of each.
    if saved.epochs != wanted.epochs and (saved.schedule != "constant" or wanted.epochs < len(read_metrics(folder))):
        raise ConfigError(
            f"{folder} contains a run of {saved.epochs} epochs with schedule {saved.schedule!r}, the trial has "
            f"{wanted.epochs} epochs: set epochs to {saved.epochs}, or choose another output folder"
        )


def _deviation(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _run_in_turn(
    out: Path, trials: Sequence[Trial], display: Display, say: Callable[[str], None], ended: Ended
) -> bool:
    """Train the trials one after another in this process; False if the user interrupts one."""
    missing: dict[tuple[str, str], str] = {}
    for number, trial in enumerate(trials, 1):
        say(f"[{number}/{len(trials)}] {trial}")
        # A data set that one trial could not load is not searched or downloaded again for the next.
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


def _run_in_processes(
    out: Path, trials: Sequence[Trial], devices: Sequence[str], say: Callable[[str], None], ended: Ended
) -> bool:
    """Train the trials from a common queue, one process per device; False if the user interrupts them.

    A device may be named several times.
    """
    # A forked process cannot use CUDA if its parent has.
    context = multiprocessing.get_context("spawn")
    tasks = context.SimpleQueue()
    for number in (*range(len(trials)), *(None for _ in devices)):
        tasks.put(number)
    messages = context.Queue()
    workers = [
        context.Process(target=_work, args=(out, list(trials), device, tasks, messages), name=device)
        for device in devices[: len(trials)]
    ]
    pending = dict(enumerate(trials))
    terminated = False
    with StopRequest("stopping after the current batches; press Ctrl-C again to quit immediately") as stop:
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers) or not messages.empty():
            if stop.requested and not terminated:
                terminated = True
                for worker in workers:
                    worker.terminate()  # the first SIGTERM makes a training save and stop
            try:
                event, *content = messages.get(timeout=0.1)
            except queue.Empty:
                continue
            if event == "line":
                say(*content)
            elif event == "begin":
                number, device = content
                say(f"[{number + 1}/{len(trials)}] {trials[number]}, on {device}")
            else:
                number, error = content
                ended(pending.pop(number), error)
    if terminated:
        return False
    # A worker that crashed has printed its traceback; its trials are recorded as failures.
    deaths = ", ".join(f"{worker.name} {worker.exitcode}" for worker in workers if worker.exitcode)
    for trial in pending.values():
        ended(trial, f"the process that was to train it died; exit codes: {deaths}")
    return True


def _work(out: Path, trials: list[Trial], device: str, tasks: Any, messages: Any) -> None:
    """A worker process: train trials on ``device`` until none is left or one is interrupted."""
    # Ctrl-C reaches every process of the terminal's session. In its own session a worker receives one SIGTERM, from
    # its parent; a second signal would end it before it has saved.
    if hasattr(os, "setsid"):
        os.setsid()
    _die_with_parent()

    def say(line: str) -> None:
        messages.put(("line", f"{device}: {line}"))

    while (number := tasks.get()) is not None:
        messages.put(("begin", number, device))
        try:
            if not train_trial(out, trials[number].on_device(device), Lines(say), say):
                return
        except TRIAL_ERRORS as error:
            messages.put(("end", number, str(error)))
        else:
            messages.put(("end", number, None))


def _die_with_parent() -> None:
    """End this process when its parent ends, so that a killed command leaves no training behind."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            multiprocessing.connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
