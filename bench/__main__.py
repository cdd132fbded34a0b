"""``python -m bench NAME``: run one measurement."""

from __future__ import annotations

import argparse
import sys

from bench import latency, launches, loading, precision, products
from bench.gpu import command as gpu
from bench.static import command as static
from bench.sweep import command as sweep
from tssl_triton._errors import UserError


def parser() -> argparse.ArgumentParser:
    """The command line: one subcommand for each measurement."""
    whole = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = whole.add_subparsers(dest="command", required=True)
    sweep.add_to(commands)
    launches.add_to(commands)
    latency.add_to(commands)
    loading.add_to(commands)
    precision.add_to(commands)
    products.add_to(commands)
    static.add_to(commands)
    gpu.add_to(commands)
    return whole


def main() -> None:
    arguments = parser().parse_args()
    try:
        arguments.run(arguments)
    except (UserError, OSError) as error:
        sys.exit(f"python -m bench: error: {error}")


if __name__ == "__main__":
    main()
