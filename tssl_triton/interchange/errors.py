"""Errors of export and import."""

from __future__ import annotations

from tssl_triton._errors import UserError


class InterchangeError(UserError, ValueError):
    """A network, graph or weights file that cannot be converted; the message names the layer, node or file."""
