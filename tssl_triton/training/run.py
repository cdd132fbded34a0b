"""A run: a folder with everything about one training, and the loop that fills it.

======================  ==========================================================================================
``config.toml``         all settings; ``tssl train --config`` reads it
``checkpoint.pt``       see `tssl_triton.training.checkpoint`; replaced after each epoch and on interruption
``metrics.jsonl``       one line of JSON per complete epoch, rewritten from the checkpoint each time
``learning_curve.png``  loss and accuracy over the epochs; needs matplotlib
``tensorboard``         event files, if the setting ``tensorboard`` is on; see `tssl_triton.training.tensorboard`
======================  ==========================================================================================
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from tssl_triton import data
from tssl_triton._extras import MissingExtraError
from tssl_triton._files import write_text
from tssl_triton.nn import spiking_layers

from . import checkpoint, tensorboard
from .checkpoint import CheckpointError
from .config import MAY_CHANGE, ConfigError, TrainConfig, check_known, write_toml
from .display import Display, draw_learning_curve
from .distributed import Processes
from .interrupt import StopRequest
from .trainer import Trainer


class Run:
    """A trainer and the folder that stores its progress; made by `create` or `resume`.

    If several processes train together, each has a run, and the first one writes the folder.

    Attributes:
        folder: the run's folder.
        trainer: the trainer.
        say: prints a line to the user.
    """

    def __init__(self, folder: Path, trainer: Trainer, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.trainer = trainer
        self.say = say
        self._draws = True
        if trainer.config.tensorboard:
            tensorboard.writer()  # fail now rather than after the first epoch

    @classmethod
    def create(cls, folder: Path | None, config: TrainConfig, say: Callable[[str], None] = print) -> Run:
        """Start a run in a new folder; None is a folder under ``runs``, named after data set and time.

        Raises:
            ConfigError: if the folder exists, or a setting does not fit.
            DataError, MissingExtraError: if the data set or tensorboard cannot be loaded.
        """
        places = [folder] if folder is not None else _default_folders(config)
        if folder is not None and _exists(folder):
            raise _already_exists(folder)
        trainer = Trainer(config, load_data(config))
        run = cls(places[0], trainer, say)
        state = trainer.state()
        if not trainer.processes.first:
            return run
        parent = places[0].parent
        parent.mkdir(parents=True, exist_ok=True)
        # Filled under a temporary name, then renamed: the folder can be resumed from the moment that it exists.
        temporary = Path(tempfile.mkdtemp(prefix=f".{places[0].name}.", dir=parent))
        try:
            temporary.chmod(0o755)
            run._write(temporary, state)
            run.folder = _rename(temporary, places)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return run

    @classmethod
    def resume(cls, folder: Path, flags: dict[str, Any], say: Callable[[str], None] = print) -> Run:
        """Continue a run from its checkpoint.

        Args:
            folder: the run's folder.
            flags: new values of settings; only those in `MAY_CHANGE` may differ from the run's.
            say: prints a line to the user.

        Raises:
            CheckpointError: if the checkpoint is missing, damaged or from another program.
            ConfigError: if ``flags`` contradict the run.
            DataError, MissingExtraError: if the data set cannot be loaded.
        """
        trainer, state = _load(folder, flags)
        done, epochs = trainer.epoch, trainer.config.epochs
        if epochs < done:
            raise ConfigError(f"epochs must be >= {done}, the epochs of {folder} so far; got {epochs}")
        for name, now in trainer.environment().items():
            before = state["environment"].get(name)
            if before != now:
                say(f"note: {name} was {before} and is now {now}: results may differ in their last bits")
        run = cls(folder, trainer, say)
        run.save()
        return run

    def train(self, display: Display) -> bool:
        """Train until the last epoch or an interruption; returns whether the last epoch was reached.

        The first Ctrl-C (or SIGTERM) stops after the current batch and saves; the second ends the process immediately.

        Raises:
            TrainingError: if a number is no longer finite; the last checkpoint is kept.
        """
        trainer = self.trainer
        notice = "stopping after this batch; press Ctrl-C again to quit immediately"
        with StopRequest(notice if trainer.processes.first else "") as stop, _repeatable(), self._scalars() as log:
            while trainer.epoch < trainer.config.epochs:
                display.begin(trainer.epoch + 1, trainer.config.epochs, trainer.batch, trainer.batches)
                try:
                    complete = trainer.train_epoch(lambda: stop.requested, display.update)
                finally:
                    display.close()
                if not complete:
                    trainer.read()  # raises if a number is not finite, before it reaches the checkpoint
                    self.save()
                    return False
                self.save()
                log(trainer.history[-1])
                display.end(trainer.history[-1], trainer.config.epochs)
        return True

    def _scalars(self) -> AbstractContextManager[Callable[[dict[str, Any]], None]]:
        """A function that logs an epoch's metrics for TensorBoard, if the setting is on."""
        trainer = self.trainer
        if not (trainer.config.tensorboard and trainer.processes.first):
            return contextlib.nullcontext(lambda metrics: None)
        layers = list(spiking_layers(trainer.network))
        return tensorboard.scalar_log(self.folder / "tensorboard", trainer.history, layers)

    def save(self) -> None:
        """Update every file of the folder, the checkpoint first."""
        state = self.trainer.state()
        if self.trainer.processes.first:
            self._write(self.folder, state)

    def _write(self, folder: Path, state: dict[str, Any]) -> None:
        trainer = self.trainer
        checkpoint.save(folder / "checkpoint.pt", {"config": dataclasses.asdict(trainer.config), **state})
        lines = "".join(json.dumps(epoch) + "\n" for epoch in trainer.history)
        write_text(folder / "metrics.jsonl", lines)
        write_text(folder / "config.toml", write_toml(trainer.config))
        if trainer.history and self._draws:
            title = f"{trainer.config.dataset}  {trainer.config.arch}"
            try:
                draw_learning_curve(folder / "learning_curve.png", trainer.history, title)
            except MissingExtraError as error:
                self.say(f"no learning curve: {error}")
                self._draws = False


def load_data(config: TrainConfig) -> data.DataSet:
    """The data set of a run; with several processes, one per machine downloads and prepares it for the others.

    Raises:
        ConfigError: if a setting does not fit the data set.
        DataError, MissingExtraError: if it cannot be loaded.
    """
    options = {name: getattr(config, name) for name in ("augment", "steps", "bin_ms", "downsample")}
    try:
        with Processes.now().one_ahead():
            return data.load(config.dataset, config.data_root, config.download, **options)
    except ValueError as error:
        raise ConfigError(str(error)) from error


@contextlib.contextmanager
def _repeatable() -> Iterator[None]:
    """Restrict cuDNN to deterministic convolutions, so that a resumed run computes the same bits."""
    cudnn = torch.backends.cudnn
    former = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = former


def _load(folder: Path, flags: dict[str, Any]) -> tuple[Trainer, dict[str, Any]]:
    """The trainer of a run, with settings changed by ``flags``, and the content of its checkpoint."""
    path = folder / "checkpoint.pt"
    state = checkpoint.load(path)
    try:
        for name in state["config"]:
            check_known(name)
        saved = TrainConfig(**state["config"])
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"checkpoint {path} contains invalid settings: {error}") from error
    for name in flags:
        check_known(name)
    config = dataclasses.replace(saved, **flags)
    for name in flags:
        before, now = getattr(saved, name), getattr(config, name)
        if name not in MAY_CHANGE and before != now:
            raise ConfigError(f"{name} of the run {folder} is {before!r} and cannot be changed to {now!r}")
    trainer = Trainer(config, load_data(config))
    trainer.load_state(state, path)
    return trainer, state


def load_trainer(folder: Path, flags: dict[str, Any]) -> Trainer:
    """The trainer of a run, for testing its network; the folder is not changed. Raises the errors of `Run.resume`."""
    return _load(folder, flags)[0]


def _default_folders(config: TrainConfig) -> list[Path]:
    """Folders under ``runs``, named after data set and time, in the order in which to try them."""
    stem = f"{config.dataset}-{time.strftime('%Y%m%d-%H%M%S')}"
    return [Path("runs") / stem, *(Path("runs") / f"{stem}-{number}" for number in range(2, 1000))]


def _rename(folder: Path, places: Sequence[Path]) -> Path:
    """Rename ``folder`` to the first free one of ``places``; other runs may take one concurrently."""
    for place in places:
        if _exists(place):
            continue
        try:
            return folder.rename(place)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
    raise _already_exists(places[-1])


def _exists(folder: Path) -> bool:
    return folder.exists() or folder.is_symlink()


def resuming(folder: Path, program: str = "tssl") -> str:
    """The shell command that continues the run in ``folder``."""
    return f"{program} train --resume {shlex.quote(str(folder))}"


def _already_exists(folder: Path) -> ConfigError:
    resume = f"continue it with: {resuming(folder)}; or " if (folder / "checkpoint.pt").exists() else ""
    return ConfigError(f"run folder {folder} already exists; {resume}choose another one")
