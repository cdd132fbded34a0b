"""The commands ``tssl train`` and ``tssl evaluate``."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import Any

from tssl_triton.functional import implementation
from tssl_triton.training import (
    DATASET_DEFAULTS,
    FIELD_TYPES,
    ConfigError,
    Processes,
    Run,
    choose_display,
    joined,
    load_trainer,
    read_toml,
    resolve,
    resuming,
    weights_and_constants,
)

from .settings import INTERRUPTED, PLACEMENT, add_progress, add_settings, voice


def add_to(commands: Any) -> None:
    """Add the parsers of these commands."""
    parser = commands.add_parser(
        "train",
        help="train a network on images or event recordings",
        description="Train a network on images or event recordings. A setting is taken from its flag, else from the "
        "file of --config, else from the data set's defaults, else from the general default shown here. "
        "The first Ctrl-C saves and stops, a second one quits immediately. On several devices or processors: "
        "torchrun --nproc-per-node N -m tssl_triton train ...",
        epilog=_dataset_defaults(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=train)
    parser.add_argument("--config", metavar="FILE", help="TOML file of settings, named like the flags")
    parser.add_argument("--run-dir", metavar="DIR", help="new folder for this run (default: runs/DATASET-TIME)")
    parser.add_argument("--resume", metavar="DIR", help="continue the run in this folder")
    add_progress(parser)
    add_settings(parser, tuple(FIELD_TYPES))

    parser = commands.add_parser("evaluate", help="test a trained network", description="Test a trained network.")
    parser.set_defaults(command=evaluate)
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    add_settings(parser, PLACEMENT)


def train(options: dict[str, Any]) -> int:
    """Train a new or an existing run."""
    with joined() as processes:
        return _train(processes, options)


def _train(processes: Processes, options: dict[str, Any]) -> int:
    say = voice(processes)
    resume, folder, file = options.pop("resume"), options.pop("run_dir"), options.pop("config")
    progress = options.pop("progress")
    display = choose_display(progress if processes.first else "lines", say)
    if resume is not None:
        for name, value in (("--run-dir", folder), ("--config", file)):
            if value is not None:
                raise ConfigError(f"{name} cannot be combined with --resume: a run keeps its folder and its settings")
        run = Run.resume(Path(resume), options, say)
        say(f"resuming {run.folder} after {run.trainer.epoch} epochs and {run.trainer.batch} batches")
    else:
        config = resolve(options, read_toml(file) if file is not None else {})
        run = Run.create(None if folder is None else Path(folder), config, say)
        say(f"run folder {run.folder}")
    trainer = run.trainer
    config = trainer.config
    weights, learnt = (sum(x.numel() for x in found) for found in weights_and_constants(trainer.network))
    parameters = f"{weights} weights" + (f" and {learnt} learnt constants" if learnt else "")
    time = "no time steps" if config.rule == "ann" else f"{config.steps} steps"
    where = f"{trainer.device} ({implementation(trainer.device)})"
    if processes.count > 1:
        where = f"{processes.count} processes, each on its {trainer.device.type} ({implementation(trainer.device)})"
    say(
        f"{config.dataset}: {len(trainer.images.train_labels)} training and {len(trainer.images.test_labels)} test "
        f"{trainer.images.noun}; network {config.arch}, {parameters}, {time}, on {where}"
    )
    if not run.train(display):
        say(f"interrupted in epoch {trainer.epoch + 1} after {trainer.batch} of {trainer.batches} batches; saved")
        # The same way of calling the program that the user chose.
        program = "python -m tssl_triton" if Path(sys.argv[0]).name == "__main__.py" else "tssl"
        say(f"continue with: {resuming(run.folder, program)}")
        return INTERRUPTED
    if trainer.history:
        say(f"test accuracy {trainer.history[-1]['test_accuracy']:.2%} after {trainer.epoch} epochs")
    else:
        say("no epochs to train")
    return 0


def evaluate(options: dict[str, Any]) -> int:
    """Test the network of a run."""
    with joined() as processes:
        trainer = load_trainer(Path(options.pop("run")), options)
        result = trainer.test()
    assert result is not None
    place = f"{trainer.epoch} epochs" + (f" and {trainer.batch} of {trainer.batches} batches" if trainer.batch else "")
    voice(processes)(
        f"test accuracy {result.accuracy:.2%} ({result.correct} of {result.images} {trainer.images.noun}) after {place}"
    )
    return 0


def _dataset_defaults() -> str:
    lines = ["defaults of the data sets:"]
    for dataset, defaults in DATASET_DEFAULTS.items():
        flags = " ".join(_as_flag(name, value) for name, value in defaults.items())
        # Lines may break only before a flag, so that each flag stays together with its value.
        words = flags.replace(" --", "\n--").replace(" ", "\0").split("\n")
        lines += textwrap.wrap(
            " ".join(words),
            118,
            initial_indent=f"  {dataset:<14} ",
            subsequent_indent=" " * 17,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines).replace("\0", " ")


def _as_flag(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {value}"
