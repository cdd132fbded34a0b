"""Two processes that form a gloo group: the test's own is the first, a companion beside it the second."""

import contextlib
import datetime
import io
import multiprocessing
import os
import socket
from concurrent.futures import ProcessPoolExecutor
from unittest import mock

import torch.distributed as dist

#: Seconds that one process waits for the other; only a test that fails comes near them.
PATIENCE = 900


class Pair:
    """Runs functions of importable modules in both processes.

    Args:
        folder: an empty folder, for the files through which the processes meet.
    """

    def __init__(self, folder):
        self._folder = folder
        self._meetings = 0
        self._companion = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._companion.submit(os.getpid).result(PATIENCE)

    def close(self):
        self._companion.shutdown()

    def run(self, function, *arguments):
        """What ``function(*arguments)`` gives in the first and in the second process, within their group."""
        self._meetings += 1
        meeting = f"file://{self._folder / str(self._meetings)}"
        return self._both(_grouped, meeting, function, arguments)

    def command(self, *words):
        """Exit status and output of ``tssl`` in either process, as if ``torchrun`` had started them."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        return self._both(_command, port, [str(word) for word in words])

    def _both(self, function, *arguments):
        second = self._companion.submit(function, 1, *arguments)
        first = function(0, *arguments)
        return first, second.result(PATIENCE)


def _grouped(rank, meeting, function, arguments):
    patience = datetime.timedelta(seconds=PATIENCE)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=patience)
    try:
        with mock.patch.dict(os.environ, TSSL_CPU="eager"):
            return function(*arguments)
    finally:
        dist.destroy_process_group()


def _command(rank, port, words):
    from tssl_triton import cli

    environment = {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "TSSL_CPU": "eager",
    }
    output = io.StringIO()
    streams = contextlib.redirect_stdout(output), contextlib.redirect_stderr(output)
    with mock.patch.dict(os.environ, environment), streams[0], streams[1]:
        return cli.main(words), output.getvalue()
