"""Plain-text tables, and JSON files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tssl_triton.training.checkpoint import write_atomically


def aligned(heads: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> str:
    """A table, one line per row. The first ``left`` columns are aligned left, the others right."""
    lines = [[str(cell) for cell in line] for line in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def text(line: list[str]) -> str:
        cells = zip(line, widths, strict=True)
        return "  ".join(cell.ljust(w) if k < left else cell.rjust(w) for k, (cell, w) in enumerate(cells)).rstrip()

    return "\n".join(map(text, lines))


def write_json(path: Path, whole: dict[str, Any]) -> None:
    """Replace a file atomically."""
    write_atomically(path, lambda file: file.write(json.dumps(whole, indent=2).encode() + b"\n"))
