"""What goes wrong between programs."""

from __future__ import annotations

from tssl_triton._errors import UserError


class InterchangeError(UserError, ValueError):
    """A network, graph or file of weights that cannot be handed over; the message names the layer, node or file."""
