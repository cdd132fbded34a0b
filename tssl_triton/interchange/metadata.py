"""What NIR has no field for, kept with a node under this package's name.

A program that knows nothing of it ignores it. A file returns NumPy scalars in place of numbers, so values are read back
as plain Python ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEY = "tssl_triton"

DT = 1e-3
"""Seconds per time step: the paper's 1 ms."""


def attached(entries: Mapping[str, Any]) -> dict[str, Any]:
    """A node's metadata that hold ``entries``: strings, numbers, flags, and mappings of them."""
    return {KEY: dict(entries)}


def entries_of(node: Any) -> dict[str, Any]:
    """The entries that `attached` put into a node's or graph's metadata; empty for what other programs made."""
    metadata = node.metadata if isinstance(node.metadata, Mapping) else {}
    return _plain(metadata.get(KEY, {}))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    return value.item() if hasattr(value, "item") else value
