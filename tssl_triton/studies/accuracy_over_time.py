"""Accuracy of a trained network after each time step of a presentation.

What a spiking network has fired by step t does not depend on what comes later, so one pass over the test set reads the
class after every step.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from tssl_triton.functional import psc
from tssl_triton.training.checkpoint import write_atomically
from tssl_triton.training.config import ConfigError
from tssl_triton.training.run import load_trainer
from tssl_triton.training.trainer import Trainer

from .trials import TrialResult

#: Kept beside a trial's run, so that a report can be written again without a pass over the test set.
FILE = "accuracy_over_time.json"


@torch.no_grad()
def accuracy_over_time(trainer: Trainer) -> list[float]:
    """Share of test samples that are classified correctly by what was fired in steps 1 to t, for t = 1..T.

    The class is read as in the test of a training: by spike count or by summed postsynaptic current.

    Raises:
        ConfigError: for a network without time.
    """
    config, images = trainer.config, trainer.images
    if config.rule == "ann":
        raise ConfigError("rule 'ann' has no time steps")
    count, size = len(images.test_labels), config.test_batch_size
    correct = torch.zeros(config.steps, dtype=torch.int64, device=trainer.device)
    trainer.network.eval()
    for start in range(0, count, size):
        values, labels = images.test_batch(start, min(start + size, count))
        spikes: Tensor = trainer.network(images.present(values, config.steps))
        scores = (psc(spikes, config.tau_syn) if config.readout == "psc" else spikes).cumsum(0)
        correct += (scores.argmax(2) == labels).sum(1)
    return [hits / count for hits in correct.tolist()]


def of_trial(result: TrialResult, placement: dict[str, Any]) -> list[float]:
    """`accuracy_over_time` of a trial's last checkpoint, read where it was measured before.

    Args:
        result: the trial.
        placement: settings of where it is computed, such as ``device``.

    Raises:
        Any of `tssl_triton.studies.trials.TRIAL_ERRORS`.
    """
    path = result.folder / FILE
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["epoch"] == len(result.history) and len(kept["accuracy"]) == result.trial.config.steps:
            return [float(share) for share in kept["accuracy"]]
    except (OSError, ValueError, TypeError, KeyError):
        pass  # not measured yet, or not to be read: then it is measured again
    trainer = load_trainer(result.folder, placement)
    accuracy = accuracy_over_time(trainer)
    content = json.dumps({"epoch": trainer.epoch, "accuracy": accuracy}) + "\n"
    write_atomically(path, lambda file: file.write(content.encode()))
    return accuracy
