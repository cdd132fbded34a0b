"""Trials on several devices: one process per device, each taking the next trial from a common queue."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tssl_triton.training.display import Lines
from tssl_triton.training.interrupt import StopRequest

from .trials import TRIAL_ERRORS, Trial, on_device, train_trial

NOTICE = "stopping after the batches under way; press Ctrl-C again to leave at once"


def run_in_processes(
    out: Path,
    trials: Sequence[Trial],
    devices: Sequence[str],
    say: Callable[[str], None],
    ended: Callable[[Trial, str | None], None],
) -> bool:
    """Train the trials, one process per device; False if the user interrupted them.

    Args:
        out: folder of all trials.
        trials: what to train.
        devices: one per process; a device may be named several times.
        say: prints a line to the user.
        ended: told of each trial that reached its end, or failed with the given error.
    """
    # A process that was forked could not use CUDA once its parent has.
    context = multiprocessing.get_context("spawn")
    tasks = context.SimpleQueue()
    for number in range(len(trials)):
        tasks.put(number)
    for _ in devices:
        tasks.put(None)
    messages = context.Queue()
    workers = [
        context.Process(target=_work, args=(out, list(trials), device, tasks, messages), name=device)
        for device in devices[: len(trials)]
    ]
    pending = dict(enumerate(trials))
    told = False
    with StopRequest(NOTICE) as stop:
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers) or not messages.empty():
            if stop.requested and not told:
                told = True
                for worker in workers:
                    worker.terminate()  # SIGTERM: the first one asks a training to save and stop
            try:
                kind, *content = messages.get(timeout=0.1)
            except queue.Empty:
                continue
            if kind == "line":
                say(*content)
            elif kind == "begin":
                number, device = content
                say(f"[{number + 1}/{len(trials)}] {trials[number]}, on {device}")
            else:
                number, error = content
                ended(pending.pop(number), error)
    if told:
        return False
    # A process that fails in a way that no trial should has shown its traceback; here it must not pass unseen.
    deaths = ", ".join(f"{worker.name} {worker.exitcode}" for worker in workers if worker.exitcode)
    for trial in pending.values():
        ended(trial, f"the process that was to train it died; exit codes: {deaths}")
    return True


def _work(out: Path, trials: list[Trial], device: str, tasks: Any, messages: Any) -> None:
    """A process of one device: train trials until none is left, or one is interrupted."""
    # Ctrl-C reaches every process of a terminal's session. In a session of its own this one is asked by its parent
    # alone, with one SIGTERM; a second signal would end it before it has saved.
    if hasattr(os, "setsid"):
        os.setsid()
    _die_with_parent()

    def say(line: str) -> None:
        messages.put(("line", f"{device}: {line}"))

    while (number := tasks.get()) is not None:
        messages.put(("begin", number, device))
        try:
            if not train_trial(out, on_device(trials[number], device), Lines(say), say):
                return
        except TRIAL_ERRORS as error:
            messages.put(("end", number, str(error)))
        else:
            messages.put(("end", number, None))


def _die_with_parent() -> None:
    """End this process when its parent is gone: a killed command leaves no training behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
