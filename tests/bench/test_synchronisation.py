"""No training step makes the host wait for the device, shown without one by what a step asks of the meta device."""

import benches  # noqa: F401 - finds bench
import pytest
import torch

from bench.common.tracing import DEVICE, pretending, record
from bench.launches import trace
from tssl_triton import LIFParameters, SpikingLinear, SpikingRecurrent, SpikingSequential, encoding, lif
from tssl_triton.data import ImageSet
from tssl_triton.training import EXPERIMENTS, LOSSES, Trainer, resolve
from tssl_triton.training import trainer as train

SMALL = {"arch": "6C3-P2-20", "padding": "1", "dropout": 0.2, "epochs": 2, "batch_size": 4, "device": "cpu"}


@pytest.fixture
def trainer(monkeypatch):
    """Makes a trainer whose network and images are on the device that stands in for a GPU."""
    monkeypatch.setattr(train, "choose_device", lambda name: DEVICE)

    def make(**settings):
        pixels = torch.zeros(8, 1, 8, 8, dtype=torch.uint8)
        labels = torch.arange(8)
        images = ImageSet("drawn", pixels, labels, pixels, labels, classes=10, mean=0.0, std=1.0)
        made = Trainer(resolve(SMALL | settings, {}), images)
        assert made.totals.loss.device == DEVICE
        return made

    return make


def indices():
    return torch.empty(4, dtype=torch.int64, device=DEVICE)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_step_written_by_hand(name):
    assert trace(name)[1].waits() == []


@pytest.mark.parametrize("pool", ["sum", "average", "max"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_of_the_trainer(trainer, loss, pool):
    with pretending():
        made = trainer(loss=loss, pool=pool)
    seen = record(lambda: made.step(indices()))
    assert seen.waits() == []
    assert seen.launches()["lif forward"] == seen.launches()["lif backward"] == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"clip_norm": 0.0, "clip_weight": 0.0},
        {"readout": "count", "reduction": "mean", "schedule": "constant"},
        {"optimizer": "adam", "warmup": "silent", "variant": "paper", "steps": 40},
    ],
)
def test_a_step_of_the_trainer_with_other_settings(trainer, settings):
    with pretending():
        made = trainer(**settings)
    for _ in range(2):
        assert record(lambda: made.step(indices())).waits() == []


def test_a_long_run_window_by_window():
    def step():
        y = torch.empty(20, 2, 7, device=DEVICE, requires_grad=True)
        state = None
        for part in y.split(8):
            spikes, state = lif(part, LIFParameters(), state=state, return_state=True)
        spikes.sum().backward()

    seen = record(step)
    assert seen.waits() == []
    assert seen.launches()["lif forward"] == 3


def test_learnt_constants_and_feedback():
    with pretending():
        net = SpikingSequential(
            SpikingLinear(6, 5, learn=("tau_mem", "tau_syn", "threshold"), per="neuron"),
            SpikingRecurrent(5, 4, LIFParameters(warmup="silent"), learn=("threshold",)),
            SpikingRecurrent(4, 3, rule="stbp"),
        ).to(DEVICE)

    def step():
        spikes, state = net(torch.empty(20, 2, 6, device=DEVICE), return_state=True)
        (spikes.sum() + net(torch.empty(9, 2, 6, device=DEVICE), state).sum()).backward()

    assert record(step).waits() == []


@pytest.mark.parametrize(
    ("name", "wait"),
    [
        ("reads a number", lambda x: x.sum().item()),
        ("reads a number", lambda x: float(x.mean())),
        ("reads a number", lambda x: 1 if x.max() > 0 else 0),
        ("reads a number", lambda x: torch.equal(x, x)),
        ("copies from meta to cpu", lambda x: x.cpu()),
        ("copies from meta to cpu", lambda x: x.tolist()),
        ("copies from cpu to meta", lambda x: torch.zeros(3).to(x.device)),
        ("copies from cpu to meta", lambda x: x.copy_(torch.zeros(5, 2, 3))),
        ("copies Python data to the device", lambda x: torch.tensor([0.0, 1.0], device=x.device)),
        ("copies Python data to the device", lambda x: x.new_tensor([0.0, 1.0])),
        ("copies Python data to the device", lambda x: x[:, [0, 1]]),
        ("copies its index from cpu to meta", lambda x: x[torch.zeros(2, dtype=torch.int64)]),
        ("depends on values", lambda x: x[x > 0]),
        ("depends on values", lambda x: x.nonzero()),
        ("depends on values", lambda x: x.masked_select(x > 0)),
        ("depends on values", lambda x: x.unique()),
        ("it says so", lambda x: torch.cuda.synchronize()),
    ],
)
def test_waiting_is_noticed(name, wait):
    x = torch.empty(5, 2, 3, device=DEVICE)
    (why,) = record(lambda: wait(x)).waits()
    assert name in why


def test_a_number_read_in_a_step_of_the_trainer_is_noticed(trainer, monkeypatch):
    with pretending():
        made = trainer()
    loss = made.loss

    def curious(spikes, labels):
        per_image = loss(spikes, labels)
        per_image.sum().item()
        return per_image

    monkeypatch.setattr(made, "loss", curious)
    assert record(lambda: made.step(indices())).waits() == ["aten._local_scalar_dense.default: reads a number"]


def test_a_pattern_copied_from_the_host_is_noticed(monkeypatch):
    """As `target_pattern` once did."""
    target = encoding.target_pattern

    def copied(labels, classes, pattern, steps=None, dtype=torch.float32):
        torch.tensor(encoding.pattern_steps(pattern), dtype=dtype, device=labels.device)
        return target(labels, classes, pattern, steps, dtype)

    monkeypatch.setattr("bench.common.steps.target_pattern", copied)
    assert trace("mnist")[1].waits() == ["tensor: copies Python data to the device"]


def test_an_error_of_another_kind_is_not_swallowed():
    x = torch.empty(5, 2, 3, device=DEVICE)
    with pytest.raises(RuntimeError, match="broadcast"):
        record(lambda: x + torch.empty(4, device=DEVICE))
