"""The command ``tssl``: train a network, test one, hand it on, reproduce the paper, say what this machine offers."""

from __future__ import annotations

import argparse
import io
import platform
import shlex
import sys
import textwrap
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import torch

from tssl_triton._extras import MissingExtraError
from tssl_triton.cpu import compiler as _cpp
from tssl_triton.data import DataError
from tssl_triton.functional import implementation
from tssl_triton.inspection import sparsity
from tssl_triton.interchange import InterchangeError
from tssl_triton.nn.conversion import ConversionError
from tssl_triton.nn.network import ArchitectureError
from tssl_triton.studies import reproduce
from tssl_triton.studies.results import aligned
from tssl_triton.training import recipes
from tssl_triton.training.checkpoint import CheckpointError
from tssl_triton.training.config import FIELD_TYPES, ConfigError, read_toml, resolve
from tssl_triton.training.display import choose_display
from tssl_triton.training.distributed import Processes, joined, launched
from tssl_triton.training.presets import DATASET_DEFAULTS
from tssl_triton.training.recipes import RecipeError
from tssl_triton.training.run import Run, load_trainer, resuming
from tssl_triton.training.trainer import TrainingError, weights_and_constants

from . import export as cli_export
from . import inspect as cli_inspect
from . import studies as cli_studies
from .settings import INTERRUPTED, PLACEMENT, add_settings, finish, say, voice

#: Errors whose message is all a user needs. Anything else is a fault in the program and shows its traceback.
USER_ERRORS = (
    ArchitectureError,
    CheckpointError,
    ConfigError,
    ConversionError,
    DataError,
    InterchangeError,
    MissingExtraError,
    OSError,
    RecipeError,
    TrainingError,
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for every other error, in place of argparse's usage block."""
        self.exit(2, f"tssl: error: {message}; see '{self.prog} --help'\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command ``tssl``.

    Args:
        arguments: words after the command's name; those of the process if not given.

    Returns:
        The exit status: 0, 2 after an error, 130 after an interruption.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that a terminal cannot show must not end a training
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    try:
        if launched() and command not in (_train, _evaluate):
            raise ConfigError("torchrun starts processes that share their work; only 'train' and 'evaluate' can")
        status: int = command(options)
    except USER_ERRORS as error:
        print(f"tssl: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tssl: interrupted", file=sys.stderr)
        return INTERRUPTED
    return status


def _train(options: dict[str, Any]) -> int:
    with joined() as processes:
        return _train_with(processes, options)


def _train_with(processes: Processes, options: dict[str, Any]) -> int:
    say = voice(processes)
    resume, folder, file = options.pop("resume"), options.pop("run_dir"), options.pop("config")
    progress = options.pop("progress")
    display = choose_display(progress if processes.first else "lines", say)
    if resume is not None:
        for name, value in (("--run-dir", folder), ("--config", file)):
            if value is not None:
                raise ConfigError(f"{name} cannot be combined with --resume: a run keeps its folder and its settings")
        run = Run.resume(Path(resume), options, say)
        say(f"resuming {run.folder}: {run.trainer.epoch} epochs and {run.trainer.batch} batches are done")
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
        say(f"go on with: {resuming(run.folder, _program())}")
        return INTERRUPTED
    if trainer.history:
        say(f"test accuracy {trainer.history[-1]['test_accuracy']:.2%} after {trainer.epoch} epochs")
    else:
        say("no epochs to train")
    return 0


def _evaluate(options: dict[str, Any]) -> int:
    with joined() as processes:
        trainer = load_trainer(Path(options.pop("run")), options)
        result = trainer.test()
    if result is None:
        raise AssertionError("a test that nothing can stop was stopped")
    place = f"{trainer.epoch} epochs"
    if trainer.batch:
        place += f" and {trainer.batch} of {trainer.batches} batches"
    voice(processes)(
        f"test accuracy {result.accuracy:.2%} ({result.correct} of {result.images} {trainer.images.noun}) after {place}"
    )
    return 0


def _reproduce(options: dict[str, Any]) -> int:
    names, out, trials = options.pop("targets"), Path(options.pop("out")), options.pop("trials")
    train, progress = not options.pop("report_only"), options.pop("progress")
    planned = reproduce.plan(names, out, trials, **options)
    outcome = reproduce.reproduce(planned, train=train, display=choose_display(progress, say), say=say)
    return finish(outcome, [out / target.name / "report.md" for target in planned.targets])


def _sparsity(options: dict[str, Any]) -> int:
    folder, out = Path(options.pop("run")), options.pop("out")
    out = folder if out is None else Path(out)
    measured = sparsity.measure(load_trainer(folder, options))
    for line in aligned(measured.table()):
        say(line)
    say(f"test accuracy {measured.accuracy:.2%} ({measured.samples} samples) after {measured.epochs} epochs")
    out.mkdir(parents=True, exist_ok=True)
    sparsity.write(out, measured, f"{measured.dataset}  {measured.arch}, after {measured.epochs} epochs")
    say(f"wrote {out / 'sparsity.json'} and {out / 'sparsity.png'}")
    return 0


def _info(options: dict[str, Any]) -> int:
    rows = [(name, _version(name)) for name in ("tssl-triton", "torch", "triton", "numpy")]
    rows.append(("python", f"{platform.python_version()} ({platform.system()} {platform.machine()})"))
    rows += [(name, _version(name)) for name in ("scikit-learn", "torchvision", "tqdm", "matplotlib", "tensorboard")]
    rows.append(("C++ compiler", _compiler()))
    rows.append(("cpu", f"{torch.get_num_threads()} threads; runs: {implementation(torch.device('cpu'))}"))
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        properties = torch.cuda.get_device_properties(device)
        memory = properties.total_memory / 2**30
        rows.append((str(device), f"{properties.name}, {memory:.0f} GiB; runs: {implementation(device)}"))
    if not torch.cuda.device_count():
        rows.append(("gpu", "none that torch can use"))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        say(f"{name:<{width}}  {value}")
    return 0


def _compiler() -> str:
    try:
        return shlex.join(_cpp.compiler())
    except _cpp.CompileError as error:
        return str(error)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _program() -> str:
    """How the user called this program, to be told the same way of calling it again."""
    return "python -m tssl_triton" if Path(sys.argv[0]).name == "__main__.py" else "tssl"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="tssl", description="Train deep spiking neural networks with TSSL-BP.")
    commands = parser.add_subparsers(
        title="commands",
        required=True,
        metavar="COMMAND",
    )

    train = commands.add_parser(
        "train",
        help="train a network on images or event recordings",
        description="Train a network on images or event recordings. A setting is taken from its flag, else from the "
        "file of --config, else from the data set's defaults, else from the general default that is shown here. "
        "The first Ctrl-C saves and stops, a second one leaves at once. On several devices or processors: "
        "torchrun --nproc-per-node N -m tssl_triton train ...",
        epilog=_dataset_defaults(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.set_defaults(command=_train)
    train.add_argument("--config", metavar="FILE", help="TOML file of settings, named as the flags are")
    train.add_argument(
        "--run-dir", metavar="DIR", help="folder of this run, not there yet (default: runs/DATASET-TIME)"
    )
    train.add_argument("--resume", metavar="DIR", help="go on with the run in this folder")
    train.add_argument("--progress", choices=("auto", "bar", "lines"), default="auto", help="how progress is shown")
    add_settings(train, tuple(FIELD_TYPES))

    evaluate = commands.add_parser("evaluate", help="test a trained network", description="Test a trained network.")
    evaluate.set_defaults(command=_evaluate)
    evaluate.add_argument("run", metavar="RUN", help="folder of the run")
    add_settings(evaluate, PLACEMENT)

    again = commands.add_parser(
        "reproduce",
        help="train the paper's tables and figures anew",
        description="Train the networks of a table or figure of the paper, several trials each, and set the results "
        "beside the printed numbers. Finished trials are read, interrupted ones go on: the same command continues.",
    )
    again.set_defaults(command=_reproduce)
    targets = ", ".join((*reproduce.TABLES, *reproduce.FIGURES, *recipes.NAMES))
    again.add_argument("targets", nargs="+", metavar="TARGET", help=f"{targets}, or a recipe in a .toml file")
    again.add_argument(
        "--out", metavar="DIR", default="runs/reproduce", help="folder of results (default: %(default)s)"
    )
    again.add_argument("--trials", type=int, metavar="N", help="trials per row (default: 5, for figures 1)")
    again.add_argument(
        "--epochs", type=int, metavar="N", default=argparse.SUPPRESS, help="epochs (default: the paper's)"
    )
    again.add_argument("--report-only", action="store_true", help="train nothing, report what is there")
    again.add_argument("--progress", choices=("auto", "bar", "lines"), default="auto", help="how progress is shown")
    add_settings(again, (*PLACEMENT, "recompute"))

    cli_studies.add_commands(commands)

    firing = commands.add_parser(
        "sparsity",
        help="how sparsely a trained network fires",
        description="Count the spikes of a trained network on its test set: share of neurons that fire 0 to T times, "
        "and histogram of firing rates, for each layer. Writes sparsity.json and sparsity.png.",
    )
    firing.set_defaults(command=_sparsity)
    firing.add_argument("run", metavar="RUN", help="folder of the run")
    firing.add_argument("--out", metavar="DIR", help="folder of the files (default: that of the run)")
    add_settings(firing, PLACEMENT)

    cli_inspect.add_command(commands)
    cli_export.add_command(commands)

    about = "Print versions, devices and which implementation runs on each."
    commands.add_parser("info", help="versions and devices", description=about).set_defaults(command=_info)
    return parser


def _dataset_defaults() -> str:
    lines = ["defaults of the data sets:"]
    for dataset, defaults in DATASET_DEFAULTS.items():
        flags = " ".join(_as_flag(name, value) for name, value in defaults.items())
        # Only at spaces before a flag may a line break: neither an architecture nor a value leaves its flag.
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
