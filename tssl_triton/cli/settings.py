"""Shared parts of the commands: flags of settings, output lines, and exit statuses."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tssl_triton.studies import Outcome, aligned
from tssl_triton.training import FIELD_TYPES, Processes, TrainConfig

INTERRUPTED = 130  # the shell's status of a process that SIGINT ended

#: Settings of where a trained network is tested, which do not affect the network.
PLACEMENT = ("device", "data_root", "download", "test_batch_size")


def say(line: str) -> None:
    """Print a line and flush."""
    print(line, flush=True)


def say_table(rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first row is the heading."""
    for line in aligned(rows):
        say(line)


def voice(processes: Processes) -> Callable[[str], None]:
    """A function that prints a line in the first process only."""
    return say if processes.first else lambda line: None


def add_settings(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """A flag for each named field of the configuration; flags that are not given are absent from the options."""
    group = parser.add_argument_group("settings")
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    for name in names:
        field, value_type = fields[name], FIELD_TYPES[name]
        flag = "--" + name.replace("_", "-")
        text = f"{field.metadata['help']} (default: {field.default})".replace("%", "%%")
        if value_type is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        else:
            choices = field.metadata["choices"] or None
            metavar = None if choices else value_type.__name__.upper().replace("STR", "TEXT")
            group.add_argument(
                flag, type=value_type, choices=choices, metavar=metavar, default=argparse.SUPPRESS, help=text
            )


def add_progress(parser: argparse.ArgumentParser) -> None:
    """The flag ``--progress``."""
    parser.add_argument("--progress", choices=("auto", "bar", "lines"), default="auto", help="how to show progress")


def finish(outcome: Outcome, reports: Sequence[Path]) -> int:
    """Print how several trials ended and where the reports are; returns the exit status."""
    if outcome.interrupted:
        say("interrupted; progress is saved, and the same command continues it")
        return INTERRUPTED
    say(f"reports: {', '.join(map(str, reports))}")
    if outcome.failures:
        names = ", ".join(dict.fromkeys(failure.trial.name for failure in outcome.failures))
        print(f"tssl: error: {len(outcome.failures)} trials failed, of {names}", file=sys.stderr)
        return 2
    return 0
