"""A run folder with a slightly trained network, for tests of code that reads one."""

from pathlib import Path

import pytest
import torch

from tssl_triton.training import Run, resolve

SMALL = {"arch": "6C3-P2-20", "padding": "1", "epochs": 1, "batch_size": 100, "device": "cpu", "test_batch_size": 100}


def started_run(folder: Path) -> Run:
    """A saved run with the settings `SMALL`, trained on ten batches of digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSSL_CPU", "eager")
        made = Run.create(folder, resolve(SMALL, {}), lambda line: None)
        for _ in range(10):
            made.trainer.step(torch.arange(100))
        made.trainer.batch = 0
        made.save()
    return made
