"""Training on two processes: the same numbers as on one, also when interrupted and resumed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from pairs import Pair
from shared_training import one_epoch, one_step, sharded_step

from tssl_triton import cli
from tssl_triton.training import ConfigError, Processes, checkpoint

#: 20 batches per epoch, the last one of 69 images: 35 and 34.
#: Few neurons, so that none is likely to be within rounding of its threshold, where the last bit decides on a spike.
SETTINGS = {"arch": "2C5-P2-8", "weight_scale": 3.0, "epochs": 1, "batch_size": 72, "device": "cpu"}

#: Sums of float32 over half a batch and then over two processes, instead of over the batch at once: a few ulps.
GRADIENT = 1e-6
#: The same after 20 consecutive steps.
LOSS = 1e-5


@pytest.fixture(autouse=True)
def _eager(eager):
    """Use the eager implementation: compiling the loops would take longer than these trainings."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    pair = Pair(tmp_path_factory.mktemp("pair"))
    yield pair
    pair.close()


@pytest.fixture(scope="module")
def alone():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSSL_CPU", "eager")
        return one_epoch(SETTINGS)


def assert_same_course(readings, expected):
    """The same batches, and equal means: loss, norm of the gradient and accuracy."""
    assert [reading.batch for reading in readings] == [reading.batch for reading in expected]
    for one, other in zip(readings, expected, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=LOSS)
        assert one.norm == pytest.approx(other.norm, rel=LOSS)
        assert (one.seen, one.accuracy) == (other.seen, other.accuracy)


@pytest.mark.parametrize(("samples", "parts"), [(10, [4, 3, 3]), (9, [3, 3, 3]), (2, [1, 1, 0]), (0, [0, 0, 0])])
def test_shares(samples, parts):
    shares = [Processes(rank, 3).share(samples) for rank in range(3)]
    assert [len(range(samples)[share]) for share in shares] == parts
    assert [sample for share in shares for sample in range(samples)[share]] == list(range(samples))


@pytest.mark.parametrize(
    ("images", "settings"),
    [
        (51, {"reduction": "sum", "clip_norm": 0.0}),
        (51, {"reduction": "mean", "clip_norm": 0.001, "loss": "count"}),
        (1, {"reduction": "mean", "recompute": True}),  # one process has no image at all
    ],
    ids=str,
)
def test_the_gradients_are_those_of_one_process(pair, images, settings):
    settings = SETTINGS | settings
    expected, whole = one_step(settings, images)
    assert all(gradient.any() for gradient in expected)
    for gradients, reading in pair.run(one_step, settings, images):
        for gradient, other in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, other, rtol=GRADIENT, atol=GRADIENT * other.abs().max().item())
        assert reading.norm == pytest.approx(whole.norm, rel=GRADIENT)
        assert reading.loss == pytest.approx(whole.loss, rel=GRADIENT)


def test_the_course_of_a_training_is_that_of_one_process(pair, alone):
    readings, (metrics,), state = alone
    assert [reading.batch for reading in readings] == list(range(21))
    assert readings[-1].seen == 1437
    for others, (theirs,), _ in pair.run(one_epoch, SETTINGS):
        assert_same_course(others, readings)
        assert theirs["test_accuracy"] == metrics["test_accuracy"]
        assert theirs["firing_rates"] == pytest.approx(metrics["firing_rates"], rel=LOSS)
    assert_same_kind(state, pair.run(one_epoch, SETTINGS, None, 3)[0][2])


def assert_same_kind(state, other):
    """States with equal keys and shapes: they do not depend on the number of processes."""
    if isinstance(state, dict):
        assert state.keys() == other.keys()
        for key, value in state.items():
            assert_same_kind(value, other[key])
    elif isinstance(state, torch.Tensor):
        assert (state.shape, state.dtype) == (other.shape, other.dtype)
    else:
        assert type(state) is type(other)


@pytest.mark.parametrize("asked", [0, 1])
def test_one_process_continues_a_training_of_two(pair, alone, asked):
    (_, _, state), (_, _, other) = pair.run(one_epoch, SETTINGS, None, 7, asked)
    assert state["batch"] == other["batch"] == 7
    readings, (metrics,), _ = one_epoch(SETTINGS, state)
    assert_same_course(readings, alone[0][7:])
    assert metrics["test_accuracy"] == alone[1][0]["test_accuracy"]


def test_two_processes_continue_a_training_of_one(pair, alone):
    _, _, state = one_epoch(SETTINGS, None, 7)
    for readings, (metrics,), _ in pair.run(one_epoch, SETTINGS, state):
        assert_same_course(readings, alone[0][7:])
        assert metrics["test_accuracy"] == alone[1][0]["test_accuracy"]


def test_two_processes_resume_bit_for_bit_with_dropout(pair):
    settings = SETTINGS | {"dropout": 0.3}
    whole = pair.run(one_epoch, settings)[0][2]["model"]
    state = pair.run(one_epoch, settings, None, 7)[0][2]
    rest = pair.run(one_epoch, settings, state)[0][2]["model"]
    assert all(torch.equal(weight, rest[name]) for name, weight in whole.items())


def test_random_numbers_differ_by_rank():
    drawn = []
    for rank in (1, 2):
        Processes(rank, 3).reseed(0, 1, 2)
        drawn.append(torch.rand(4).tolist())
        Processes(rank, 3).reseed(0, 1, 3)
        drawn.append(torch.rand(4).tolist())
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    Processes(0, 3).reseed(0, 1, 2)
    assert torch.equal(torch.rand(4), expected), "the first process keeps its generator"
    assert len(set(map(tuple, drawn))) == 4


def test_the_command_shares_a_training_and_its_test(pair, tmp_path):
    folder = tmp_path / "run"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    first, second = pair.command("train", *flags, "--progress=lines", "--run-dir", folder)
    assert first[0] == second[0] == 0, first[1] + second[1]
    assert "2 processes, each on its cpu (eager)" in first[1]
    assert second[1] == "", "only the first process prints"
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    accuracy = json.loads((folder / "metrics.jsonl").read_text())["test_accuracy"]
    for status, said in pair.command("evaluate", folder, "--device=cpu"):
        assert status == 0
        assert said in ("", f"test accuracy {accuracy:.2%} ({round(360 * accuracy)} of 360 images) after 1 epochs\n")
    for status, said in pair.command("train", *flags, "--run-dir", folder):
        assert status == 2
        assert f"run folder {folder} already exists" in said


def test_other_commands_do_not_share(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    assert cli.main(["info"]) == 2
    assert "only 'train' and 'evaluate' can" in capsys.readouterr().err


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Processes(5, 8).own(cuda) == torch.device("cuda", 1)
    assert Processes(5, 8).own(cpu) == cpu
    assert Processes().own(torch.device("cuda", 1)) == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="device must be auto, cpu or cuda with 8 processes, got 'cuda:0'"):
        Processes(5, 8).own(torch.device("cuda", 0))
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="no GPU for process 3 of this machine: torch sees 2"):
        Processes(2, 8).own(cuda)


def test_sharded_weights_take_the_same_step(pair):
    expected = sharded_step(shard=False)
    for weights in pair.run(sharded_step, True):
        for name, weight in expected.items():
            torch.testing.assert_close(weights[name], weight, rtol=GRADIENT, atol=GRADIENT)


def torchrun(*words):
    """Two processes on this machine and their launcher, in a new session."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "tssl_triton"]
    return subprocess.Popen(
        [*command, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def workers(process):
    """The processes that a torchrun has started."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    )
    return [int(pid) for pid in listed.stdout.split()]


def trained_once(process, folder):
    """Wait for the first epoch of a training."""
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_torchrun_ends_and_any_number_of_processes_continues(tmp_path, sent):
    """Killing one process ends the other; Ctrl-C saves the state of both."""
    folder = tmp_path / "run"
    settings = SETTINGS | {"epochs": 40}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    process = torchrun("train", *flags, "--progress=lines", "--run-dir", folder)
    trained_once(process, folder)
    both = workers(process)
    assert len(both) == 2
    os.kill(both[1] if sent == signal.SIGKILL else process.pid, sent)
    process.wait(60)
    said = process.stdout.read()
    assert process.returncode != 0, said
    assert ("saved\n" in said) == (sent == signal.SIGINT), said
    for pid in both:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    state = checkpoint.load(folder / "checkpoint.pt")
    assert 1 <= state["epoch"] < 40
    last = state["epoch"] + 1
    assert cli.main(["train", "--resume", str(folder), f"--epochs={last}", "--progress=lines"]) == 0
    process = torchrun("train", "--resume", folder, f"--epochs={last + 1}", "--progress=lines")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == list(
        range(1, last + 2)
    )
