"""Counting the operators that PyTorch runs one by one: on a GPU each is a launch at least."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

ALLOCATIONS = ("empty", "new_empty", "empty_like", "empty_strided")


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.count += not func.is_view and name not in ALLOCATIONS and name != "detach"
        return func(*args, **(kwargs or {}))


def operators_of(call: Callable[[], object]) -> int:
    """How many operators ``call`` runs that are neither views nor allocations."""
    with _Counting() as mode:
        call()
    return mode.count
