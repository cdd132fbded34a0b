"""Types and checks of command-line options, which report errors before anything is measured."""

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
    """A file to write, in an existing folder."""
    path = Path(text)
    if path.is_dir() or not path.name:
        raise argparse.ArgumentTypeError(f"must be a file, got the folder {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"must be in an existing folder, got {text!r}")
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


def missing_device(device: torch.device, command: str) -> str:
    """Why ``command`` cannot run on ``device``; empty if it can."""
    if device.type != "cuda":
        return ""
    if not torch.cuda.is_available():
        return f"python -m bench {command} needs a CUDA or ROCm device; torch {torch.__version__} finds none"
    count = torch.cuda.device_count()
    return "" if (device.index or 0) < count else f"no device {str(device)!r}: torch finds {count}"


def earlier_report(flag: str, path: Path, check: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """An earlier run's JSON report, validated by ``check``. SystemExit, naming ``flag``, if it is invalid."""
    try:
        whole = json.loads(path.read_text())
        check(whole)
    except OSError as error:
        sys.exit(f"{flag}: cannot read {str(path)!r}: {error.strerror}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__} {error}"
        sys.exit(f"{flag} must be a file written by --json, got {str(path)!r}: {reason}")
    return dict(whole)
