"""Scalars for TensorBoard: each epoch once, also after crashes, and only if requested."""

import json
import os
import shutil
import sys

import pytest
import torch

from tssl_triton import cli
from tssl_triton.training import Lines, Run, resolve, tensorboard

SMALL = {"arch": "10", "epochs": 2, "batch_size": 500, "device": "cpu", "tensorboard": True}
TAGS = {*tensorboard.TAGS.values(), "firing_rate/full_1", "firing_rate/output"}
QUIET = Lines(lambda line: None)


@pytest.fixture(autouse=True)
def _eager(eager):
    """Use the eager implementation: compiling the loops would take longer than these trainings."""


@pytest.fixture
def _tensorboard():
    pytest.importorskip("tensorboard")


def create(folder, **settings):
    return Run.create(folder, resolve({**SMALL, **settings}, {}), lambda line: None)


def logged(folder):
    """Every event of every file, unfiltered: ``{tag: [(step, value, wall time), ...]}``."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0], event.wall_time))
    return found


def assert_complete(folder, epochs):
    """Each tag has each epoch once, with the number in ``metrics.jsonl``."""
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(history) == epochs
    found = logged(folder)
    assert set(found) == TAGS
    for tag, events in found.items():
        assert [step for step, _, _ in events] == list(range(1, epochs + 1)), tag
        times = [time for _, _, time in events]
        assert times == sorted(times)
    for name, tag in tensorboard.TAGS.items():
        # Event files hold float32.
        assert [value for _, value, _ in found[tag]] == pytest.approx([each[name] for each in history], rel=1e-6)
    for k, layer in enumerate(("full_1", "output")):
        want = [each["firing_rates"][k] for each in history]
        assert [value for _, value, _ in found[f"firing_rate/{layer}"]] == pytest.approx(want, rel=1e-6)


@pytest.mark.usefixtures("_tensorboard")
def test_every_epoch_is_logged_also_after_resuming(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    assert create(folder).train(QUIET)
    assert_complete(folder, 2)
    watching = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in watching.Scalars("loss/train")] == [1, 2]
    assert Run.resume(folder, {"epochs": 4}, lambda line: None).train(QUIET)
    assert_complete(folder, 4)
    # A TensorBoard that has read the previous file shows no epoch twice.
    assert [event.step for event in watching.Reload().Scalars("loss/train")] == [1, 2, 3, 4]
    # The setting is stored in the run; resuming a complete run loses nothing.
    assert Run.resume(folder, {}, lambda line: None).train(QUIET)
    assert_complete(folder, 4)


@pytest.mark.usefixtures("_tensorboard")
def test_a_crash_between_checkpoint_and_log_loses_nothing(tmp_path, monkeypatch):
    folder, run = tmp_path / "run", None
    run = create(folder, epochs=3)
    save = run.save

    def save_and_fall():
        save()
        if run.trainer.epoch == 2:
            raise RuntimeError("power cut")

    monkeypatch.setattr(run, "save", save_and_fall)
    with pytest.raises(RuntimeError, match="power cut"):
        run.train(QUIET)
    assert [step for step, _, _ in logged(folder)["loss/train"]] == [1]
    assert Run.resume(folder, {}, lambda line: None).train(QUIET)
    assert_complete(folder, 3)


@pytest.mark.usefixtures("_tensorboard")
@pytest.mark.parametrize("damage", ["an epoch twice", "half an epoch", "half a record", "an epoch to come"])
def test_files_of_a_killed_run(tmp_path, damage):
    folder = tmp_path / "run"
    create(folder, epochs=1).train(QUIET)
    (events,) = (folder / "tensorboard").iterdir()
    whole = events.read_bytes()
    if damage == "an epoch twice":
        shutil.copy(events, events.with_name(events.name + ".0"))
    elif damage == "half an epoch":
        # A record is its length in 8 bytes, 4 of checksum, that many of data and 4 of checksum.
        end = 0
        for _ in range(5):
            end += 16 + int.from_bytes(whole[end : end + 8], "little")
        events.write_bytes(whole[:end])
    elif damage == "half a record":
        events.write_bytes(whole + whole[:50])
    else:
        with tensorboard.writer()(str(events.parent)) as more:
            more.add_scalar("loss/train", 1.0, 2)
    Run.resume(folder, {"epochs": 2}, lambda line: None).train(QUIET)
    assert_complete(folder, 2)


@pytest.mark.usefixtures("_tensorboard")
def test_a_log_that_begins_late_has_all_epochs(tmp_path, capsys):
    folder, words = tmp_path / "run", ["--arch", "10", "--batch-size", "500", "--device", "cpu", "--progress", "lines"]
    assert cli.main(["train", *words, "--epochs", "1", "--run-dir", str(folder)]) == 0
    assert not (folder / "tensorboard").exists()
    weights = torch.load(folder / "checkpoint.pt", weights_only=True)["model"]
    assert cli.main(["train", "--resume", str(folder), "--tensorboard", "--epochs", "1", "--progress", "lines"]) == 0
    assert_complete(folder, 1)
    after = torch.load(folder / "checkpoint.pt", weights_only=True)["model"]
    assert all(torch.equal(weights[name], after[name]) for name in weights)


@pytest.mark.usefixtures("_tensorboard")
def test_the_ann_has_no_firing_rates(tmp_path):
    folder = tmp_path / "run"
    create(folder, rule="ann", epochs=1).train(QUIET)
    assert set(logged(folder)) == set(tensorboard.TAGS.values())


def test_without_tensorboard_nothing_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--arch", "10", "--tensorboard"]) == 2
    assert capsys.readouterr().err == (
        "tssl: error: logging for TensorBoard needs tensorboard, which is not installed: "
        "pip install 'tssl-triton[tensorboard]'\n"
    )
    assert os.listdir(tmp_path) == []
