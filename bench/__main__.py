"""``python -m bench NAME``: run one measurement."""

from __future__ import annotations

import argparse

from . import lif, precision


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    lif.add_to(commands)
    precision.add_to(commands)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
