"""A run folder whose network has learnt a little, for tests of what reads one."""

from pathlib import Path

import pytest
import torch

from tssl_triton.training.config import resolve
from tssl_triton.training.run import Run

SMALL = {"arch": "6C3-P2-20", "padding": "1", "epochs": 1, "batch_size": 100, "device": "cpu", "test_batch_size": 100}


def started_run(folder: Path) -> Run:
    """A run with the settings `SMALL` that has learnt from ten batches of digits and saved itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSSL_CPU", "eager")
        made = Run.create(folder, resolve(SMALL, {}), lambda line: None)
        for _ in range(10):
            made.trainer.step(torch.arange(100))
        made.trainer.batch = 0
        made.save()
    return made
