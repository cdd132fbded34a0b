"""Accuracy of a trained network after each time step of a presentation.

Spikes up to step t do not depend on later steps, so one pass over the test set gives the prediction after every step.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from tssl_triton._files import write_text
from tssl_triton.functional import psc
from tssl_triton.training import ConfigError, Trainer, load_trainer

from .trials import TrialResult

#: Stored in a trial's run folder, so that a report can be rewritten without another pass over the test set.
FILE = "accuracy_over_time.json"


@torch.no_grad()
def accuracy_over_time(trainer: Trainer) -> list[float]:
    """Share of test samples classified correctly from the spikes of steps 1 to t, for t = 1..T.

    The readout is that of the training: spike count or summed postsynaptic current.

    Raises:
        ConfigError: for rule ``"ann"``, which has no time steps.
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
    """`accuracy_over_time` of a trial's last checkpoint, from its file if measured before.

    Args:
        result: the trial.
        placement: settings of the test, such as ``device``.

    Raises:
        Any of `tssl_triton.studies.TRIAL_ERRORS`.
    """
    path = result.folder / FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["epoch"] == len(result.history) and len(stored["accuracy"]) == result.trial.config.steps:
            return [float(share) for share in stored["accuracy"]]
    except (OSError, ValueError, TypeError, KeyError):
        pass  # missing or unreadable: measure
    trainer = load_trainer(result.folder, placement)
    accuracy = accuracy_over_time(trainer)
    write_text(path, json.dumps({"epoch": trainer.epoch, "accuracy": accuracy}) + "\n")
    return accuracy
