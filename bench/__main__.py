"""``python -m bench COMMAND``: run one measurement."""

from __future__ import annotations

import argparse
import sys

import bench.gpu.command
import bench.static.command
import bench.sweep.command
from bench import latency, launches, loading, precision, products
from tssl_triton._errors import UserError

COMMANDS = (
    bench.sweep.command, launches, latency, loading, precision, products, bench.static.command, bench.gpu.command
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line, with one subcommand for each measurement."""
    whole = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = whole.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add_to(commands)
    return whole


def main() -> None:
    arguments = parser().parse_args()
    try:
        arguments.run(arguments)
    except (UserError, OSError) as error:
        sys.exit(f"python -m bench: error: {error}")


if __name__ == "__main__":
    main()
