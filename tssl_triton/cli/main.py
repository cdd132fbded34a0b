"""The command line ``tssl``: its parser, and how errors are shown."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from typing import NoReturn

from tssl_triton._errors import UserError
from tssl_triton.training import ConfigError, launched

from . import export, info, inspect, studies, train
from .settings import INTERRUPTED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print one line, as for every other error, instead of argparse's usage block."""
        self.exit(2, f"tssl: error: {message}; see '{self.prog} --help'\n")


def parser() -> argparse.ArgumentParser:
    """The parser of ``tssl``; a command's options contain the function ``command``, which takes the other options."""
    whole = _Parser(prog="tssl", description="Train deep spiking neural networks with TSSL-BP.")
    commands = whole.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (train, studies, inspect, export, info):
        module.add_to(commands)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command ``tssl``.

    Args:
        arguments: words after the command's name; those of the process if not given.

    Returns:
        The exit status: 0, 2 after an error, 130 after an interruption.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal cannot show must not end a training.
            stream.reconfigure(errors="backslashreplace")
    options = vars(parser().parse_args(arguments))
    command = options.pop("command")
    try:
        if launched() and command not in (train.train, train.evaluate):
            raise ConfigError("only 'train' and 'evaluate' can be distributed with torchrun")
        status: int = command(options)
    except (UserError, OSError) as error:
        print(f"tssl: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tssl: interrupted", file=sys.stderr)
        return INTERRUPTED
    return status
