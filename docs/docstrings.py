"""Docstrings, written to be read as they are, as Markdown: reStructuredText's ``::`` and its tables.

The fields of a named tuple stand under ``Args``, since it is made with them. Griffe, which does not see its
constructor, looks for them under ``Attributes``.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

RULE = re.compile(r"^\s*=+( +=+)+\s*$")


class PlainDocstrings(griffe.Extension):
    """Turns what precedes an indented block, and tables between rules of ``=``, into their Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
            if obj.is_class and any(str(base) == "NamedTuple" for base in obj.bases):
                obj.docstring.value = obj.docstring.value.replace("\nArgs:\n", "\nAttributes:\n")


def markdown(docstring: str) -> str:
    lines: list[str] = []
    columns: list[tuple[int, int | None]] | None = None
    rows: list[list[str]] = []
    for line in docstring.splitlines():
        if RULE.match(line):
            if columns is None:
                starts = [run.start() for run in re.finditer("=+", line)]
                columns = list(zip(starts, [*starts[1:], None], strict=True))
            else:
                lines += (" " * columns[0][0] + row for row in _table(rows))
                columns, rows = None, []
        elif columns is not None:
            cells = [line[start:end].strip() for start, end in columns]
            if cells[0] or not rows:
                rows.append(cells)
            else:  # a row goes on
                rows[-1] = [" ".join(filter(None, pair)) for pair in zip(rows[-1], cells, strict=True)]
        else:
            lines.append(re.sub(r"\s*::$", lambda match: ":" if match[0] == "::" else "", line))
    return "\n".join(lines)


def _table(rows: list[list[str]]) -> list[str]:
    width = len(rows[0])
    return ["|" + " |" * width, "|" + " --- |" * width, *(f"| {' | '.join(row)} |" for row in rows)]
