"""Batches made in advance by one thread, in the same order and with the same values."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from tssl_triton._checks import check_count

Item = TypeVar("Item")

_END: Any = object()


class Prefetcher(Generic[Item]):
    """Draws from an iterable in one background thread, at most ``depth`` items ahead.

    A context manager that returns an iterator. The thread starts on entry and has ended after exit, also after an
    exception. An error of the iterable is raised in place of its item, after all items before it.

    Args:
        items: the iterable; only the thread draws from it.
        depth: number of items that may wait, >= 1; one more is being made.
    """

    def __init__(self, items: Iterable[Item], depth: int = 2) -> None:
        self._items = iter(items)
        self._depth = check_count("depth", depth)
        self._pool = ThreadPoolExecutor(1, "prefetch")
        self._ahead: deque[Future[Item]] = deque()

    def __enter__(self) -> Iterator[Item]:
        for _ in range(self._depth + 1):
            self._draw()
        return self._taken()

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _draw(self) -> None:
        self._ahead.append(self._pool.submit(next, self._items, _END))

    def _taken(self) -> Iterator[Item]:
        while (item := self._ahead.popleft().result()) is not _END:
            self._draw()
            yield item
