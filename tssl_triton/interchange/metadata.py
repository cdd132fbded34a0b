"""Node metadata under this package's name, for settings that NIR has no field for.

Other programs ignore it. Files return numbers as NumPy scalars, which `entries_of` converts to Python numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEY = "tssl_triton"

DT = 1e-3
"""Seconds per time step: the paper's 1 ms."""


def attached(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Node metadata with ``entries``: strings, numbers, flags, and mappings of these."""
    return {KEY: dict(entries)}


def entries_of(node: Any) -> dict[str, Any]:
    """The entries that `attached` wrote for a node or graph; empty if another program made it."""
    metadata = node.metadata if isinstance(node.metadata, Mapping) else {}
    return _plain(metadata.get(KEY, {}))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    return value.item() if hasattr(value, "item") else value
