"""Training: it learns, resumes bit for bit, and raises an error for numbers that are not finite."""

import json
import math
import os

import pytest
import torch
from trainings import StopAfter, assert_same, without_timing

from tssl_triton import data
from tssl_triton.training import (
    CheckpointError,
    ConfigError,
    Trainer,
    TrainingError,
    checkpoint,
    choose_device,
    resolve,
)

#: A network small enough for tests, with every source of randomness: initial weights, data order and dropout.
SMALL = {"arch": "6C3-P2-20", "padding": "1", "dropout": 0.2, "epochs": 3, "batch_size": 100, "device": "cpu"}


@pytest.fixture(autouse=True)
def _eager(eager):
    """Use the eager implementation: compiling the loops would take longer than these trainings."""


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def trained(config, images):
    trainer = Trainer(config, images)
    while trainer.epoch < config.epochs:
        assert trainer.train_epoch()
    return trainer


@pytest.fixture(scope="module")
def uninterrupted(digits):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSSL_CPU", "eager")
        return trained(resolve(SMALL, {}), digits)


def test_recomputing_trains_the_same_network(uninterrupted, digits):
    trainer = Trainer(resolve({**SMALL, "recompute": True}, {}), digits)
    assert trainer.network[0].recompute
    assert trainer.train_epoch()
    # Loss, norm of the gradient and accuracy of an epoch, to the last digit.
    assert without_timing(trainer.history) == without_timing(uninterrupted.history[:1])


def test_training_learns(digits):
    trainer = trained(resolve({"epochs": 4, "device": "cpu"}, {}), digits)
    assert trainer.history[-1]["loss"] < 0.6 * trainer.history[0]["loss"]
    assert trainer.history[-1]["test_accuracy"] > 0.9


def test_the_seed_decides_everything(digits, uninterrupted):
    torch.rand(7)
    assert_same(trained(resolve(SMALL, {}), digits), uninterrupted)
    other = trained(resolve(SMALL | {"seed": 1, "epochs": 1}, {}), digits)
    assert other.history[0]["loss"] != uninterrupted.history[0]["loss"]


@pytest.mark.parametrize("loss", ["van-rossum", "spike-train", "count", "softmax"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_every_loss_trains(digits, loss, reduction):
    config = resolve(SMALL | {"loss": loss, "reduction": reduction, "dropout": 0.0, "epochs": 2}, {})
    history = trained(config, digits).history
    assert history[1]["loss"] < history[0]["loss"]


# 15 batches per epoch, then one call before the only batch of the test.
@pytest.mark.parametrize("questions", [0, 1, 14, 15, 16, 23, 46, 47])
def test_an_interrupted_training_resumes_bit_for_bit(digits, uninterrupted, tmp_path, questions):
    config = resolve(SMALL, {})
    path = tmp_path / "checkpoint.pt"
    first = Trainer(config, digits)
    stop = StopAfter(questions)
    while first.train_epoch(stop):
        pass
    checkpoint.save(path, {"config": {}, **first.state()})

    torch.manual_seed(12345)  # a new process would have other generator states
    second = Trainer(config, digits)
    second.load_state(checkpoint.load(path), path)
    assert (second.epoch, second.batch) == (first.epoch, first.batch)
    while second.epoch < config.epochs:
        assert second.train_epoch()
    assert_same(second, uninterrupted)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_learning_rate(digits, schedule):
    trainer = Trainer(resolve(SMALL | {"schedule": schedule, "lr": 0.5, "epochs": 4}, {}), digits)
    rates = []
    for trainer.epoch in range(4):
        rates += [trainer.learning_rate(batch) for batch in range(trainer.batches)]
    assert rates[0] == 0.5
    if schedule == "constant":
        assert set(rates) == {0.5}
    else:
        assert rates == sorted(rates, reverse=True)
        assert rates[len(rates) // 2] == pytest.approx(0.25)
        assert 0 < rates[-1] < 0.001


def test_clipping(digits):
    trainer = Trainer(resolve(SMALL | {"clip_weight": 0.05, "clip_norm": 0.01}, {}), digits)
    trainer.step(torch.arange(100))
    assert max(weight.abs().max().item() for weight in trainer.network.parameters()) == pytest.approx(0.05)
    norm = math.sqrt(sum(weight.grad.square().sum().item() for weight in trainer.network.parameters()))
    assert norm == pytest.approx(0.01, rel=1e-3)
    assert trainer.read().norm > 0.01, "the reported norm is before clipping"


@pytest.mark.parametrize("per", ["layer", "neuron"])
def test_constants_are_learnt_without_decay_or_bound(digits, per):
    settings = {"learn": "tau_mem,tau_syn,threshold", "per": per, "clip_weight": 0.05, "weight_decay": 0.9, "lr": 1e-30}
    trainer = Trainer(resolve(SMALL | {"clip_norm": 0.0, **settings}, {}), digits)
    weights, constants = trainer.optimizer.param_groups
    names = {id(parameter): name for name, parameter in trainer.network.named_parameters()}
    assert not any("constants" in names[id(weight)] for weight in weights["params"])
    assert all("constants" in names[id(raw)] for raw in constants["params"])
    assert len(weights["params"]) + len(constants["params"]) == len(names)
    before = [raw.detach().clone() for raw in constants["params"]]
    trainer.step(torch.arange(100))
    for raw, start in zip(constants["params"], before, strict=True):
        assert raw.grad.any()
        assert torch.allclose(raw, start, rtol=0, atol=1e-20)
        assert (raw.numel() > 1) == (per == "neuron")
    assert max(weight.abs().max().item() for weight in weights["params"]) == pytest.approx(0.05)


def test_a_training_with_learnt_constants_resumes_bit_for_bit(digits, tmp_path):
    config = resolve(SMALL | {"learn": "tau_mem,threshold", "per": "neuron"}, {})
    whole = trained(config, digits)
    stopped, answers = Trainer(config, digits), iter([False] * 4 + [True])
    assert not stopped.train_epoch(stop=lambda: next(answers))
    checkpoint.save(tmp_path / "half.pt", {"config": {}, **stopped.state()})
    resumed = Trainer(config, digits)
    resumed.load_state(checkpoint.load(tmp_path / "half.pt"), tmp_path / "half.pt")
    while resumed.epoch < config.epochs:
        assert resumed.train_epoch()
    assert_same(resumed, whole)
    learnt = whole.network[0].constants()
    assert learnt.tau_syn is None
    assert (learnt.tau_mem - config.tau_mem).abs().max() > 1e-3


def test_no_clipping(digits):
    trainer = Trainer(resolve(SMALL | {"clip_weight": 0.0, "clip_norm": 0.0}, {}), digits)
    with torch.no_grad():
        next(trainer.network.parameters()).mul_(100)
    trainer.step(torch.arange(100))
    norm = math.sqrt(sum(weight.grad.square().sum().item() for weight in trainer.network.parameters()))
    assert norm == pytest.approx(trainer.read().norm, rel=1e-5)
    assert max(weight.abs().max().item() for weight in trainer.network.parameters()) > 4


def test_the_last_smaller_batch_is_learnt_from(digits):
    trainer = Trainer(resolve(SMALL, {}), digits)
    readings = []
    trainer.train_epoch(report=readings.append)
    assert trainer.batches == 15
    assert readings[-1].seen == 1437
    assert readings[-1].batch == 15


def test_metrics_of_an_epoch(uninterrupted):
    for number, epoch in enumerate(uninterrupted.history, 1):
        assert epoch["epoch"] == number
        assert len(epoch["firing_rates"]) == 3
        assert all(0 < rate < 1 for rate in epoch["firing_rates"])
        assert 0 <= epoch["train_accuracy"] <= 1
        assert epoch["gradient_norm"] > 0
        json.dumps(epoch, allow_nan=False)


def test_the_test_covers_every_image(digits, uninterrupted):
    sizes = {}
    for size in (7, 360, 1000):
        trainer = Trainer(resolve(SMALL | {"test_batch_size": size}, {}), digits)
        trainer.network.load_state_dict(uninterrupted.network.state_dict())
        sizes[size] = trainer.test().correct
    assert len(set(sizes.values())) == 1
    assert sizes[7] / 360 == uninterrupted.history[-1]["test_accuracy"]


def test_nan_weights_stop_the_training(digits):
    # A network with NaN weights does not fire, and its loss is finite: only the gradient shows the error.
    trainer = Trainer(resolve(SMALL, {}), digits)
    with torch.no_grad():
        next(trainer.network.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"the gradient is no longer finite in epoch 1, .* smaller learning rate"):
        trainer.train_epoch()


def test_infinite_loss_stops_the_training(digits, monkeypatch):
    trainer = Trainer(resolve(SMALL, {}), digits)
    loss = trainer.loss
    monkeypatch.setattr(trainer, "loss", lambda spikes, labels: loss(spikes, labels) + math.inf)
    with pytest.raises(TrainingError, match="the loss is no longer finite in epoch 1"):
        trainer.train_epoch()


def test_a_network_that_does_not_fit_its_images(digits):
    with pytest.raises(ConfigError, match="the 9x9 window of '4C9' does not fit its input, 8x8"):
        Trainer(resolve(SMALL | {"arch": "4C9", "padding": "0"}, {}), digits)


@pytest.mark.parametrize(
    "settings",
    [{"rule": "stbp"}, {"rule": "stbp", "surrogate": "arctan", "surrogate_width": 0.3}, {"rule": "slayer"}],
    ids=str,
)
def test_other_rules_learn(digits, settings):
    trainer = trained(resolve({"arch": "50", "epochs": 2, "lr": 5e-3, "device": "cpu", **settings}, {}), digits)
    assert trainer.network[0].rule == trainer.config.learning_rule()
    first, second = trainer.history
    assert second["loss"] < 0.85 * first["loss"]
    assert second["test_accuracy"] > 0.4


def test_missing_device():
    with pytest.raises(ConfigError, match=r"device 'cuda:99' does not exist: torch sees [0-9]+ GPUs"):
        choose_device("cuda:99")
    assert choose_device("cpu") == torch.device("cpu")


def test_a_checkpoint_of_another_network(digits, uninterrupted, tmp_path):
    trainer = Trainer(resolve(SMALL | {"arch": "30"}, {}), digits)
    with pytest.raises(CheckpointError, match=f"checkpoint {tmp_path} does not fit the network it describes: .*"):
        trainer.load_state(uninterrupted.state(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("dataset", "lowest"), [("digits", 0.96), ("mnist", 0.983), ("fashion-mnist", 0.865)])
def test_published_accuracy(dataset, lowest, monkeypatch):
    monkeypatch.delenv("TSSL_CPU")
    root = os.environ.get("TSSL_DATA_ROOT")
    if root is None and dataset != "digits":
        pytest.skip("TSSL_DATA_ROOT does not say where MNIST and Fashion-MNIST are")
    images = data.load(dataset, root or "data", download=False)
    trainer = trained(resolve({"dataset": dataset, "device": "cpu"}, {}), images)
    assert trainer.history[-1]["test_accuracy"] >= lowest
