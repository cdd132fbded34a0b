"""Trials: train, resume, summarise, distribute over processes; folders with other settings are refused."""

import dataclasses
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trainings import without_timing

from tssl_triton import cli
from tssl_triton.studies import Trial, TrialResult, collect, repeated, run_trials, trials
from tssl_triton.training import CheckpointError, ConfigError, checkpoint, resolve
from tssl_triton.training import run as run_module

SMALL = {"arch": "12", "epochs": 2, "batch_size": 200, "device": "cpu", "schedule": "cosine"}


@pytest.fixture(autouse=True)
def _eager(eager):
    """Use the eager implementation: compiling the loops would take longer than these trainings."""


def config(**settings):
    return resolve(SMALL | settings, {})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two names with two trials each, trained one after another, and the printed lines."""
    out, lines, seen = tmp_path_factory.mktemp("trials"), [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSSL_CPU", "eager")
        wanted = [*repeated("narrow", config(), 2), *repeated("wide", config(arch="20"), 2)]
        outcome = run_trials(out, wanted, say=lines.append, after_each=lambda o: seen.append(len(o.results)))
    return out, wanted, outcome, lines, seen


def test_trials_are_run_folders(finished):
    out, _, outcome, lines, seen = finished
    assert [r.folder for r in outcome.results] == [
        out / name / f"seed-{k}" for name in ("narrow", "wide") for k in (0, 1)
    ]
    assert all(r.complete and len(r.history) == 2 for r in outcome.results)
    assert all((r.folder / "checkpoint.pt").is_file() for r in outcome.results)
    assert not outcome.failures
    assert not outcome.interrupted
    assert lines[0] == "[1/4] narrow, seed 0"
    assert sum(line.startswith("epoch 2/2") for line in lines) == 4
    assert seen == [1, 2, 3, 4]


def test_summaries(finished):
    outcome = finished[2]
    for name, summary in outcome.summaries().items():
        best = [max(r.accuracies) for r in outcome.results if r.trial.name == name]
        last = [r.accuracies[-1] for r in outcome.results if r.trial.name == name]
        assert summary.mean == statistics.fmean(best)
        assert summary.std == statistics.stdev(best)
        assert summary.best == max(best)
        assert (summary.last_mean, summary.last_std) == (statistics.fmean(last), statistics.stdev(last))
        assert summary.epochs == 2


def test_best_epoch_is_the_first_of_equals(tmp_path):
    history = [{"epoch": n, "test_accuracy": a, "seconds": 1.0} for n, a in enumerate((0.5, 0.75, 0.75, 0.25), 1)]
    result = TrialResult(Trial("x", config(epochs=4)), tmp_path, history)
    assert (result.best, result.best_epoch, result.last, result.complete) == (0.75, 2, 0.25, True)
    (summary,) = trials.Outcome((result,)).summaries().values()
    assert (summary.mean, summary.std, summary.last_std) == (0.75, None, None)


def test_finished_trials_are_only_read(finished, monkeypatch):
    out, wanted, outcome, _, _ = finished
    monkeypatch.setattr(trials, "train_trial", lambda *_: pytest.fail("trained again"))
    lines = []
    again = run_trials(out, wanted, say=lines.append)
    assert again.results == outcome.results
    assert lines == ["4 of 4 trials are already finished"]


def test_a_folder_of_tssl_train_counts(finished, tmp_path, capsys):
    words = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    assert cli.main(["train", *words, "--progress=lines", f"--run-dir={tmp_path / 'narrow' / 'seed-0'}"]) == 0
    (result,) = collect(tmp_path, [finished[1][0]]).results
    assert result.complete
    assert without_timing(result.history) == without_timing(finished[2].results[0].history)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.5}, r"seed-0 contains a run with lr 0\.002, the trial has 0\.5: choose another output folder"),
        (
            {"epochs": 3},
            r"seed-0 contains a run of 2 epochs with schedule .cosine., the trial has 3 epochs: set epochs",
        ),
    ],
)
def test_other_settings_are_refused_before_anything_is_trained(finished, settings, message):
    out = finished[0]
    wanted = [Trial("new", config()), Trial("narrow", config(**settings))]
    with pytest.raises(ConfigError, match=message):
        run_trials(out, wanted, say=lambda line: None)
    assert not (out / "new").exists()


def test_where_a_run_is_computed_may_differ(finished):
    out, wanted, _, _, _ = finished
    moved = dataclasses.replace(wanted[0].config, device="auto", data_root="elsewhere", test_batch_size=7)
    assert collect(out, [Trial("narrow", moved)]).results[0].complete


def test_a_constant_learning_rate_lets_a_trial_grow(tmp_path):
    short = config(epochs=1, schedule="constant")
    run_trials(tmp_path, [Trial("x", short)], say=lambda line: None)
    lines = []
    outcome = run_trials(tmp_path, [Trial("x", dataclasses.replace(short, epochs=2))], say=lines.append)
    assert len(outcome.results[0].history) == 2
    assert "x, seed 0: resuming after 1 epochs and 0 batches" in lines
    with pytest.raises(ConfigError, match="a run of 2 epochs"):
        collect(tmp_path, [Trial("x", short)])


def test_a_failing_trial_does_not_stop_the_others(tmp_path):
    absent = config(dataset="mnist", data_root=str(tmp_path / "nothing"), download=False)
    wanted = [*repeated("absent", absent, 2), Trial("misfit", config(arch="4C9", padding="0")), Trial("x", config())]
    outcome = run_trials(tmp_path, wanted, say=lambda line: None)
    assert [result.trial.name for result in outcome.results] == ["x"]
    assert [failure.trial.name for failure in outcome.failures] == ["absent", "absent", "misfit"]
    assert outcome.failures[1].error.startswith("mnist not found: looked for train-images")
    assert "does not fit" in outcome.failures[2].error


def test_an_unfinished_trial_continues(finished, tmp_path, monkeypatch):
    asked = []

    class StopEarly(run_module.StopRequest):
        """As if Ctrl-C were pressed during the fourth batch of the second epoch."""

        @property
        def requested(self):
            asked.append(None)
            return len(asked) > 13

        @requested.setter
        def requested(self, value):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "StopRequest", StopEarly)
        outcome = run_trials(tmp_path, finished[1][:2], say=lambda line: None)
    assert outcome.interrupted
    (half,) = outcome.results
    assert not half.complete
    outcome = run_trials(tmp_path, finished[1][:2], say=lambda line: None)
    assert not outcome.interrupted
    for got, expected in zip(outcome.results, finished[2].results, strict=False):
        assert without_timing(got.history) == without_timing(expected.history)


def test_means_are_of_complete_trials_where_there_are_any(finished):
    full, other = finished[2].results[:2]
    half = dataclasses.replace(other, history=[{**other.history[0], "test_accuracy": 0.0}])
    mixed = trials.Summary("x", (full, half))
    assert mixed.counted == (full,)
    assert (mixed.mean, mixed.std, mixed.last_mean, mixed.epochs) == (full.best, None, full.last, len(full.history))
    assert trials.Summary("x", (half,)).mean == 0.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "metrics .* are damaged"),
        ('{"epoch": 2, "test_accuracy": 0.5}\n', "line 1 is not that of epoch 1"),
        ('{"epoch": 1}\n', "are damaged: 'test_accuracy'"),
    ],
)
def test_damaged_metrics_are_named(finished, tmp_path, content, message):
    out, wanted, _, _, _ = finished
    shutil.copytree(out / "narrow", tmp_path / "narrow")
    (tmp_path / "narrow" / "seed-0" / "metrics.jsonl").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        collect(tmp_path, wanted)
    (tmp_path / "narrow" / "seed-0" / "metrics.jsonl").unlink()
    with pytest.raises(CheckpointError, match=r"no metrics at .*seed-0"):
        collect(tmp_path, wanted)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b"])
def test_names_are_folder_names(name):
    with pytest.raises(ValueError, match="name must be letters, digits"):
        Trial(name, config())


def test_trials_must_differ(tmp_path):
    with pytest.raises(ValueError, match="two of them share a folder"):
        run_trials(tmp_path, [Trial("x", config()), Trial("x", config())])


def test_one_process_per_device(finished, tmp_path):
    absent = config(dataset="mnist", data_root=str(tmp_path / "nothing"), download=False)
    wanted = [*finished[1][:2], Trial("absent", absent)]
    lines = []
    outcome = run_trials(tmp_path, wanted, devices=("cpu", "cpu"), say=lines.append)
    assert "[1/3] narrow, seed 0, on cpu" in lines
    assert sum(line.startswith("cpu: epoch 2/2") for line in lines) == 2
    (failure,) = outcome.failures
    assert failure.error.startswith("mnist not found")
    for got, expected in zip(outcome.results, finished[2].results[:2], strict=True):
        assert without_timing(got.history) == without_timing(expected.history)


INTERRUPTED = """
import sys
from pathlib import Path
from tssl_triton.studies import repeated, run_trials
from tssl_triton.training import resolve

if __name__ == "__main__":
    settings = dict(arch="12", epochs=10_000, batch_size=10)
    say = lambda line: print(line, flush=True)
    outcome = run_trials(Path("out"), repeated("x", resolve(settings, {}), 2), devices=("cpu", "cpu"), say=say)
    print("interrupted" if outcome.interrupted else "went on", flush=True)
"""


def two_processes(tmp_path):
    """A command with two running trainings, and their folders."""
    (tmp_path / "script.py").write_text(INTERRUPTED)
    words = [sys.executable, "script.py"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    folders = [tmp_path / "out" / "x" / f"seed-{k}" for k in (0, 1)]
    for line in process.stdout:
        if "epoch " in line and all((folder / "checkpoint.pt").exists() for folder in folders):
            break
    time.sleep(0.5)
    return process, folders


@pytest.mark.slow
def test_ctrl_c_saves_in_every_process(tmp_path):
    process, folders = two_processes(tmp_path)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out.splitlines()[-1] == "interrupted"
    assert err.count("press Ctrl-C again") == 3, "the parent and both trainings"
    assert "Traceback" not in err
    states = [checkpoint.load(folder / "checkpoint.pt") for folder in folders]
    assert any(state["batch"] for state in states), "saved in the middle of an epoch"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds child processes by /proc")
def test_a_killed_command_leaves_no_training_behind(tmp_path):
    process, _ = two_processes(tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    process.kill()
    process.communicate()
    for _ in range(200):
        left = [child for child in children if Path(f"/proc/{child}/exe").exists()]
        if not left:
            return
        time.sleep(0.1)
    pytest.fail(f"processes {', '.join(left)} went on without the command")
