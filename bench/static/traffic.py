"""Bytes that a kernel moves, counted while Triton's interpreter runs it.

Loads and stores are recorded with their masks; a byte counts where the mask is true. Each tensor has two figures: the
bytes of all accesses, and the distinct bytes, which must move even with a perfect cache.

Triton decides at import whether kernels are interpreted. `count_traffic` therefore runs this file in another process,
which reads requests and writes replies as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from .cases import all_cases
from .problem import DTYPES, Problem

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Request:
    """A case of `bench.static.cases` with its steps and type."""

    case: str
    steps: int
    dtype: str


@dataclass(frozen=True)
class Traffic:
    """Bytes of one tensor that are read and written: each access counted, and each address counted once."""

    loaded: int = 0
    stored: int = 0
    distinct_loaded: int = 0
    distinct_stored: int = 0

    @property
    def distinct(self) -> int:
        return self.distinct_loaded + self.distinct_stored


class Counter:
    """Addresses that an interpreted kernel accesses, by tensor."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        self._ranges = {name: (t.data_ptr(), t.data_ptr() + t.nbytes) for name, t in tensors.items() if t.nbytes}
        self._touched: dict[tuple[str, str], list[tuple[int, np.ndarray]]] = {}

    def touch(self, kind: str, addresses: np.ndarray, mask: np.ndarray, size: int) -> None:
        """Record an access of ``size`` bytes at each of ``addresses`` whose mask is true."""
        live = np.broadcast_to(addresses, np.broadcast_shapes(addresses.shape, mask.shape))
        live = live[np.broadcast_to(mask, live.shape).astype(bool)].ravel()
        for name, (first, end) in self._ranges.items():
            inside = live[(live >= first) & (live < end)]
            if inside.size:
                self._touched.setdefault((name, kind), []).append((size, inside.astype(np.int64)))
                live = live[(live < first) | (live >= end)]
        if live.size:
            raise RuntimeError(f"a {kind} accesses memory of no argument: {live.size} addresses")

    def result(self) -> dict[str, Traffic]:
        return {
            name: Traffic(*(self._bytes(name, kind, once) for once in (False, True) for kind in ("load", "store")))
            for name in self._ranges
        }

    def _bytes(self, name: str, kind: str, once: bool) -> int:
        """Bytes of all accesses of one kind, or of each address ``once``."""
        pieces = self._touched.get((name, kind), [])
        if not once:
            return sum(size * len(addresses) for size, addresses in pieces)
        by_size: dict[int, list[np.ndarray]] = {}
        for size, addresses in pieces:
            by_size.setdefault(size, []).append(addresses)
        return sum(size * len(np.unique(np.concatenate(several))) for size, several in by_size.items())


@contextmanager
def counting(tensors: dict[str, Any]) -> Iterator[Counter]:
    """Count accesses to ``tensors`` by kernels interpreted inside the ``with`` block."""
    from triton.runtime.interpreter import InterpreterBuilder

    counter = Counter(tensors)
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
    atomic = InterpreterBuilder.create_atomic_rmw

    def size(pointers: Any) -> int:
        return max(1, pointers.get_element_ty().primitive_bitwidth // 8)

    def counted_load(self: Any, ptrs: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        counter.touch("load", ptrs.data, mask.data, size(ptrs))
        return load(self, ptrs, mask, *rest, **named)

    def counted_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        counter.touch("store", ptrs.data, mask.data, size(ptrs))
        return store(self, ptrs, value, mask, *rest, **named)

    def counted_atomic(self: Any, operation: Any, ptr: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        for kind in ("load", "store"):
            counter.touch(kind, ptr.data, mask.data, size(ptr))
        return atomic(self, operation, ptr, value, mask, *rest, **named)

    with mock.patch.multiple(
        InterpreterBuilder,
        create_masked_load=counted_load,
        create_masked_store=counted_store,
        create_atomic_rmw=counted_atomic,
    ):
        yield counter


def count_launch(launch: Any) -> dict[str, Traffic]:
    """Bytes by argument of ``launch``, with tensors on the CPU, in a process that interprets kernels."""
    import torch

    tensors = {name: value for name, value in launch.arguments.items() if isinstance(value, torch.Tensor)}
    with counting(tensors) as counter:
        launch.kernel[launch.grid](**launch.arguments)
    return counter.result()


def count_traffic(requests: Sequence[Request]) -> dict[Request, dict[str, Traffic]]:
    """Bytes of each request by kernel argument, counted in another process."""
    command = [sys.executable, "-m", "bench.static.traffic"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        output, _ = process.communicate(json.dumps([asdict(r) for r in requests]))
    if process.returncode:
        raise RuntimeError(f"counting bytes under the interpreter failed ({process.returncode})")
    replies = json.loads(output)
    return {
        request: {name: Traffic(**counts) for name, counts in reply.items()}
        for request, reply in zip(requests, replies, strict=True)
    }


def main() -> None:
    cases = all_cases()
    requests = [Request(**request) for request in json.load(sys.stdin)]
    replies = []
    for request in requests:
        case = cases[request.case]
        launch = case.launch(Problem(request.steps, case.few_neurons, DTYPES[request.dtype], "cpu"))
        replies.append({name: asdict(traffic) for name, traffic in count_launch(launch).items()})
        print(f"counted {len(replies)}/{len(requests)}: {request}", file=sys.stderr)
    json.dump(replies, sys.stdout)


if __name__ == "__main__":
    main()
