"""The base class of errors that a command line prints without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """An error whose message is all that a user needs: what is wrong, with which value, and what is accepted.

    Each room's errors derive from it and from a built-in error. ``tssl`` and ``python -m bench`` print the message of a
    `UserError` or `OSError`; any other exception is a bug and keeps its traceback.
    """
