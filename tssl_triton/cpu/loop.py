"""A compiled window, and calls of it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

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
        source, self.statements = recorded(window, signatures)
        self.window = compiler.library(source).window
        self.window.argtypes = [ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p]
        self.window.restype = None

    def __call__(self, arguments: Sequence[Argument]) -> None:
        """Run the loop on all neurons of the arguments, on as many of PyTorch's threads as the work occupies."""
        Call(self, arguments)(*[argument.tensor.data_ptr() for argument in arguments if isinstance(argument, Rows)])


class Call:
    """A loop prepared for arguments of fixed sizes, which differ only in their addresses.

    Args:
        loop: the compiled window.
        arguments: of one call.
    """

    def __init__(self, loop: Loop, arguments: Sequence[Argument]) -> None:
        places: list[int] = []
        tensors, self._neurons = 0, 0
        for argument in arguments:
            if isinstance(argument, Rows):
                self._neurons = argument.neurons
                width = self._neurons * argument.tensor.itemsize
                places += argument.first * width, argument.step * width
                tensors += 1
            elif argument is not None:
                places += argument, 0
        self._window, self._addresses = loop.window, ctypes.c_int64 * tensors
        self._places = (ctypes.c_int64 * len(places))(*places)
        self._threads = 1 + self._neurons * loop.statements // STATEMENTS_PER_THREAD

    def __call__(self, *addresses: int) -> None:
        """Run the loop on the tensors at these addresses, one for each argument that is `Rows`."""
        threads = self._threads if self._threads == 1 else min(self._threads, torch.get_num_threads())
        self._window(self._neurons, threads, self._addresses(*addresses), self._places)
