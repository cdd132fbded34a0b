"""Stopping between two batches: a signal sets a flag, which the training loop checks."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType


class StopRequest:
    """Turns the first Ctrl-C (SIGINT) or SIGTERM into a request; the second one ends the process immediately.

    A context manager, which restores the previous handlers on exit. Outside the main thread, where Python cannot set
    handlers, it has no effect and ``requested`` stays False.

    Args:
        notice: written to standard error on the first signal, unless empty.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, notice: str) -> None:
        self.requested = False
        self._notice = notice
        self._former: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                self._former[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        for other in self.signals:
            signal.signal(other, signal.SIG_DFL)
        if self._notice:
            # Not print(): a handler may interrupt one, and buffered streams cannot be re-entered.
            os.write(2, f"\n{self._notice}\n".encode())
