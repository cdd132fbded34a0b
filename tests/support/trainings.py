"""Trainings that are interrupted, and compared bit for bit."""

import torch

TIMING = ("seconds", "images_per_second")
"""Metrics of an epoch that differ from run to run."""


def without_timing(history):
    return [{name: value for name, value in epoch.items() if name not in TIMING} for epoch in history]


def assert_same_state(one, other):
    """Assert bitwise equality of the weights, optimizer and CPU generator of two checkpoints."""
    for name, weight in one["model"].items():
        assert torch.equal(weight, other["model"][name]), name
    for index, moments in one["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, other["optimizer"]["state"][index][name]), (index, name)
    assert torch.equal(one["rng"]["cpu"], other["rng"]["cpu"])


def assert_same(one, other):
    """Assert bitwise equality of weights, optimizer, generators and metrics of two trainers."""
    assert_same_state(one.state(), other.state())
    assert without_timing(one.history) == without_timing(other.history)
    assert (one.epoch, one.batch) == (other.epoch, other.batch)


class StopAfter:
    """Requests a stop from the given query on."""

    def __init__(self, queries):
        self.left = queries

    def __call__(self):
        self.left -= 1
        return self.left < 0
