"""A compiled window, and calls of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import c_int32, c_int64, c_void_p
from functools import cache
from typing import Any, NamedTuple

import torch

from . import compiler
from .arguments import Argument, Rows, Signature
from .codegen import recorded

STATEMENTS_PER_THREAD = 1 << 18
"""Statements, times neurons, that a thread executes in about five microseconds: as long as it takes to wake it."""


class Loop:
    """A window compiled for arguments of some signatures.

    Args:
        window: takes a list of rows ``(N,)`` for `Rows`, and a 0-dimensional tensor for a number.
        signatures: of its arguments.

    Raises:
        CompileError: if there is no compiler.
    """

    def __init__(self, window: Callable[..., None], signatures: Sequence[Signature]) -> None:
        _keep_freed_memory()
        source, self.statements = recorded(window, signatures)
        self.window = compiler.library(source).window
        self.window.argtypes = [c_int64, c_int32, c_void_p, c_void_p]
        self.window.restype = None


@cache
def _keep_freed_memory() -> None:
    """Have glibc reuse up to 64 MB of freed memory instead of returning it to the system.

    It returns freed memory beyond twice the largest block freed so far, counting blocks up to 32 MB. The few megabytes
    of a training step would be returned, and faulted in again page by page, in every step: a fifth to a third of its
    time. Freeing one large block, whose pages are never touched, raises the limit.
    """
    torch.empty(31 << 20, dtype=torch.uint8, device="cpu")


class Call(NamedTuple):
    """A loop prepared for arguments of fixed sizes, which differ only in their addresses.

    ``window(neurons, threads, addresses(...), places)`` runs it on the tensors at some addresses, one for each argument
    that is `Rows`.
    """

    window: Any
    neurons: int
    threads: int  # that the work occupies
    addresses: Any  # the type of an array of addresses
    places: Any  # for each argument where it begins, relative to its address, and where each next row does

    @classmethod
    def of(cls, loop: Loop, arguments: Sequence[Argument]) -> Call:
        """A call of the loop with such arguments."""
        places: list[int] = []
        tensors = neurons = 0
        for argument in arguments:
            if isinstance(argument, Rows):
                neurons = argument.neurons
                width = neurons * argument.tensor.itemsize
                places += argument.first * width, argument.step * width
                tensors += 1
            elif argument is not None:
                places += argument, 0
        threads = 1 + neurons * loop.statements // STATEMENTS_PER_THREAD
        return cls(loop.window, neurons, threads, c_int64 * tensors, (c_int64 * len(places))(*places))
