"""Batches made ahead of their use, by one thread, in the same order and to the same bits."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

from tssl_triton._checks import check_count

Item = TypeVar("Item")


class Prefetcher(Generic[Item]):
    """Draws from an iterable in a thread of its own, at most ``depth`` items ahead of who takes them.

    A context manager that gives an iterator: the thread starts when it is entered and has ended when it is left,
    however it is left. An error of the iterable is raised where its item would have been taken, once the items before
    it have been.

    Args:
        items: drawn from by the thread alone.
        depth: items that may wait, >= 1; one more is being made.
    """

    def __init__(self, items: Iterable[Item], depth: int = 2) -> None:
        self._items = items
        self._depth = check_count("depth", depth)
        self._changed = threading.Condition()
        self._ready: deque[Item] = deque()
        self._stopped = False
        self._finished = False
        self._error: BaseException | None = None
        # A daemon: the process may end at once, even while a batch is being made.
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def __enter__(self) -> Iterator[Item]:
        self._thread.start()
        return self._taken()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._stopped = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join()

    def _taken(self) -> Iterator[Item]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._finished or self._stopped)
                if not self._ready:
                    break
                item = self._ready.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            for item in self._items:
                with self._changed:
                    self._changed.wait_for(lambda: len(self._ready) < self._depth or self._stopped)
                    if self._stopped:
                        return
                    self._ready.append(item)
                    self._changed.notify_all()
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._finished = True
                self._changed.notify_all()
