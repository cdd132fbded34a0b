"""A run: a folder with all that is known about one training, and the loop that fills it.

===================  ==========================================================================================
``config.toml``      the settings, every one of them; ``tssl train --config`` reads it
``checkpoint.pt``    see `tssl_triton.training.checkpoint`; replaced after each epoch and when the run is interrupted
``metrics.jsonl``    one line of JSON per complete epoch, written anew from the checkpoint each time
``learning_curve.png``  loss and accuracy over the epochs; needs matplotlib
``tensorboard``      event files, where the setting of that name is on; see `tssl_triton.training.tensorboard`
===================  ==========================================================================================
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
from tssl_triton.inspection.sparsity import spiking_layers

from . import checkpoint
from . import tensorboard as scalars
from .checkpoint import CheckpointError, write_atomically
from .config import MAY_CHANGE, ConfigError, TrainConfig, check_known, write_toml
from .display import Display, draw_learning_curve
from .distributed import Processes
from .interrupt import StopRequest
from .trainer import Trainer


class Run:
    """A trainer and the folder its progress is kept in; made by `create` or `resume`.

    Where several processes train together each has a run, and the first one's writes the folder.

    Attributes:
        folder: the run's folder.
        trainer: the training itself.
        say: prints a line to the user.
    """

    def __init__(self, folder: Path, trainer: Trainer, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.trainer = trainer
        self.say = say
        self._draws = True
        if trainer.config.tensorboard:
            scalars.writer()  # rather than fail after the first epoch

    @classmethod
    def create(cls, folder: Path | None, config: TrainConfig, say: Callable[[str], None] = print) -> Run:
        """Start a run in a new folder; None is one under ``runs``, named after data set and time.

        Raises:
            ConfigError: if the folder exists already, or a setting does not fit.
            DataError, MissingExtraError: if the data set cannot be loaded, or tensorboard where it is to be used.
        """
        places = [folder] if folder is not None else _default_folders(config)
        if folder is not None and _is_there(folder):
            raise _exists_already(folder)
        trainer = Trainer(config, load_data(config))
        run = cls(places[0], trainer, say)
        state = trainer.state()
        if not trainer.processes.first:
            return run
        parent = places[0].parent
        parent.mkdir(parents=True, exist_ok=True)
        # Filled beside its place and then renamed: from its first moment the folder can be resumed.
        nursery = Path(tempfile.mkdtemp(prefix=f".{places[0].name}.", dir=parent))
        try:
            nursery.chmod(0o755)
            run._write(nursery, state)
            run.folder = _renamed(nursery, places)
        finally:
            shutil.rmtree(nursery, ignore_errors=True)
        return run

    @classmethod
    def resume(cls, folder: Path, flags: dict[str, Any], say: Callable[[str], None] = print) -> Run:
        """Take up a run where its checkpoint left it.

        Args:
            folder: the run's folder.
            flags: settings given anew; those that say what is computed must be as they were.
            say: prints a line to the user.

        Raises:
            CheckpointError: if the checkpoint is missing, damaged or not one of this package.
            ConfigError: if ``flags`` contradict the run.
            DataError, MissingExtraError: if the data set cannot be loaded.
        """
        path = folder / "checkpoint.pt"
        state = checkpoint.load(path)
        saved = saved_config(path, state)
        config = _with_flags(saved, flags, folder)
        if config.epochs < state["epoch"]:
            raise ConfigError(f"epochs must be >= {state['epoch']}, the epochs of {folder} so far; got {config.epochs}")
        trainer = Trainer(config, load_data(config))
        trainer.load_state(state, path)
        for name, now in trainer.environment().items():
            before = state["environment"].get(name)
            if before != now:
                say(f"note: {name} was {before}, is {now}: results may differ in their last bits")
        run = cls(folder, trainer, say)
        run.save()
        return run

    def train(self, display: Display) -> bool:
        """Train until the last epoch or until interrupted; whether it reached the last epoch.

        The first Ctrl-C (or SIGTERM) stops after the batch under way and saves; the second ends the process at once.

        Raises:
            TrainingError: if a number is no longer finite; the last checkpoint stays as it was.
        """
        trainer = self.trainer
        notice = "stopping after this batch; press Ctrl-C again to leave at once"
        notice = notice if trainer.processes.first else ""
        with StopRequest(notice) as stop, _repeatable(), self._scalars() as log:
            while trainer.epoch < trainer.config.epochs:
                display.begin(trainer.epoch + 1, trainer.config.epochs, trainer.batch, trainer.batches)
                try:
                    complete = trainer.train_epoch(lambda: stop.requested, display.update)
                finally:
                    display.close()
                if not complete:
                    trainer.read()  # raises before numbers that are not finite reach the checkpoint
                    self.save()
                    return False
                self.save()
                log(trainer.history[-1])
                display.end(trainer.history[-1], trainer.config.epochs)
        return True

    def _scalars(self) -> AbstractContextManager[Callable[[dict[str, Any]], None]]:
        """What logs an epoch's metrics: for TensorBoard, or nowhere."""
        trainer = self.trainer
        if not (trainer.config.tensorboard and trainer.processes.first):
            return contextlib.nullcontext(lambda metrics: None)
        return scalars.scalar_log(self.folder / "tensorboard", trainer.history, list(spiking_layers(trainer.network)))

    def save(self) -> None:
        """Bring every file of the folder up to date, the checkpoint first."""
        state = self.trainer.state()
        if self.trainer.processes.first:
            self._write(self.folder, state)

    def _write(self, folder: Path, state: dict[str, Any]) -> None:
        trainer = self.trainer
        checkpoint.save(folder / "checkpoint.pt", {"config": dataclasses.asdict(trainer.config), **state})
        lines = "".join(json.dumps(epoch) + "\n" for epoch in trainer.history)
        write_atomically(folder / "metrics.jsonl", lambda file: file.write(lines.encode()))
        write_atomically(folder / "config.toml", lambda file: file.write(write_toml(trainer.config).encode()))
        if trainer.history and self._draws:
            title = f"{trainer.config.dataset}  {trainer.config.arch}"
            try:
                draw_learning_curve(folder / "learning_curve.png", trainer.history, title)
            except MissingExtraError as error:
                self.say(f"no learning curve: {error}")
                self._draws = False


def load_data(config: TrainConfig) -> data.DataSet:
    """The data set of a run; where several processes train, one downloads and prepares it for the others.

    Raises:
        ConfigError: if a setting does not fit the set.
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
    """Keep cuDNN to convolutions that add in the same order each time: a resumed run needs the same bits."""
    cudnn = torch.backends.cudnn
    former = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = former


def saved_config(path: Path, state: dict[str, Any]) -> TrainConfig:
    """The settings in a checkpoint's ``state``; ``path`` is named in errors.

    Raises:
        CheckpointError: if they are not the settings of a run.
    """
    try:
        for name in state["config"]:
            check_known(name)
        return TrainConfig(**state["config"])
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"checkpoint {path} holds settings that cannot be used: {error}") from error


def load_trainer(folder: Path, flags: dict[str, Any]) -> Trainer:
    """The trained network of a run, to be tested: nothing in the folder is changed.

    Raises:
        As `Run.resume`.
    """
    path = folder / "checkpoint.pt"
    state = checkpoint.load(path)
    config = _with_flags(saved_config(path, state), flags, folder)
    trainer = Trainer(config, load_data(config))
    trainer.load_state(state, path)
    return trainer


def _default_folders(config: TrainConfig) -> list[Path]:
    """Folders under ``runs``, named after data set and time; the first that is not there is to be taken."""
    stem = f"{config.dataset}-{time.strftime('%Y%m%d-%H%M%S')}"
    return [Path("runs") / stem, *(Path("runs") / f"{stem}-{number}" for number in range(2, 1000))]


def _renamed(folder: Path, places: Sequence[Path]) -> Path:
    """The first of ``places`` that is free, which ``folder`` then has: another run may take one at any moment."""
    for place in places:
        if _is_there(place):
            continue
        try:
            return folder.rename(place)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
    raise _exists_already(places[-1])


def _is_there(folder: Path) -> bool:
    return folder.exists() or folder.is_symlink()


def resuming(folder: Path, program: str = "tssl") -> str:
    """The command that goes on with the run in ``folder``, as a shell takes it."""
    return f"{program} train --resume {shlex.quote(str(folder))}"


def _exists_already(folder: Path) -> ConfigError:
    go_on = ""
    if (folder / "checkpoint.pt").exists():
        go_on = f"go on with: {resuming(folder)}; or "
    return ConfigError(f"run folder {folder} exists already; {go_on}name another one")


def _with_flags(saved: TrainConfig, flags: dict[str, Any], folder: Path) -> TrainConfig:
    for name in flags:
        check_known(name)
    config = dataclasses.replace(saved, **flags)
    for name in flags:
        before, now = getattr(saved, name), getattr(config, name)
        if name not in MAY_CHANGE and before != now:
            raise ConfigError(f"{name} of the run {folder} is {before!r} and cannot become {now!r} when it is resumed")
    return config
