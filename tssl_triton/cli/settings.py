"""What the commands of `tssl_triton.cli.main` have in common: flags of settings, lines of output, and how they end."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tssl_triton.studies.trials import Outcome
from tssl_triton.training.config import FIELD_TYPES, TrainConfig
from tssl_triton.training.distributed import Processes

INTERRUPTED = 130  # what shells report for a process that SIGINT ended

#: Settings of where a trained network is tested; they change nothing about it.
PLACEMENT = ("device", "data_root", "download", "test_batch_size")


def say(line: str) -> None:
    """Print a line at once, whatever standard output is."""
    print(line, flush=True)


def voice(processes: Processes) -> Callable[[str], None]:
    """What prints a line, once for all processes."""
    return say if processes.first else lambda line: None


def add_settings(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """A flag for each named field of the configuration; one that is not used leaves no trace in the options."""
    group = parser.add_argument_group("settings")
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    for name in names:
        field, kind = fields[name], FIELD_TYPES[name]
        flag = "--" + name.replace("_", "-")
        text = f"{field.metadata['help']} (default: {field.default})".replace("%", "%%")
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        else:
            choices = field.metadata["choices"] or None
            metavar = None if choices else kind.__name__.upper().replace("STR", "TEXT")
            group.add_argument(flag, type=kind, choices=choices, metavar=metavar, default=argparse.SUPPRESS, help=text)


def finish(outcome: Outcome, reports: Sequence[Path]) -> int:
    """Say how several trials ended and where the reports are; the exit status."""
    if outcome.interrupted:
        say("interrupted; what was done is saved, and the same command goes on with it")
        return INTERRUPTED
    say(f"reports: {', '.join(map(str, reports))}")
    if outcome.failures:
        names = ", ".join(dict.fromkeys(failure.trial.name for failure in outcome.failures))
        print(f"tssl: error: {len(outcome.failures)} trials failed, of {names}", file=sys.stderr)
        return 2
    return 0
