"""Types of command-line options: what is wrong with one is said before anything is measured."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def count(text: str) -> int:
    """An integer >= 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text!r}")
    return number


def output(text: str) -> Path:
    """A file that can be written: it need not be there, its folder must."""
    path = Path(text)
    if path.is_dir() or not path.name:
        raise argparse.ArgumentTypeError(f"must be a file, got the folder {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"must be in a folder that is there, got {text!r}")
    return path


def device(text: str) -> torch.device:
    """A CPU or a GPU."""
    try:
        found = torch.device(text)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:N, got {text!r}")
    return found


def earlier_report(flag: str, path: Path, check: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """An earlier report in JSON, in which ``check`` finds what it needs; SystemExit, naming ``flag``, if not."""
    try:
        whole = json.loads(path.read_text())
        check(whole)
    except OSError as error:
        sys.exit(f"{flag}: cannot read {str(path)!r}: {error.strerror}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__} {error}"
        sys.exit(f"{flag} must be what an earlier --json wrote, got {str(path)!r}: {reason}")
    return dict(whole)
