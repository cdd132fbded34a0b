"""The command line, in this process and as a subprocess that is killed and interrupted."""

import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from importlib import metadata

import pytest
import torch
from idx_files import write_image_set
from trainings import assert_same_state, without_timing

from tssl_triton import cli
from tssl_triton._files import write_atomically
from tssl_triton.cli.settings import INTERRUPTED
from tssl_triton.cpu import compiler as _cpp
from tssl_triton.training import FIELD_TYPES, checkpoint
from tssl_triton.training import run as run_module

#: Small, with dropout, and slow enough to be interrupted: 144 batches per epoch.
SMALL = [
    "--arch",
    "6C3-P2-20",
    "--padding",
    "1",
    "--dropout",
    "0.2",
    "--epochs",
    "3",
    "--batch-size",
    "10",
    "--device",
    "cpu",
    "--progress",
    "lines",
]


@pytest.fixture(autouse=True)
def _eager(eager):
    """Use the eager implementation: compiling the loops would take longer than these trainings."""


def run(*words):
    return cli.main([str(word) for word in words])


def metrics(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return without_timing(map(json.loads, lines))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSSL_CPU", "eager")
        assert run("train", *SMALL, "--run-dir", folder) == 0
    return folder


def assert_same_result(folder, other):
    assert_same_state(checkpoint.load(folder / "checkpoint.pt"), checkpoint.load(other / "checkpoint.pt"))
    assert metrics(folder) == metrics(other)
    assert len(metrics(folder)) == 3


def started(folder):
    """A training in a subprocess, after its first epoch."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tssl_triton", "train", *SMALL, "--run-dir", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/3"):
            return process
    raise AssertionError(process.communicate()[1])


def test_resuming_after_kill_9_is_bit_for_bit(tmp_path, uninterrupted, capsys):
    folder = tmp_path / "killed"
    process = started(folder)
    time.sleep(0.1)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(metrics(folder)) < 3, "the process should be killed before it ends"
    assert run("train", "--resume", folder, "--progress", "lines") == 0
    assert "resuming" in capsys.readouterr().out
    assert_same_result(folder, uninterrupted)


def test_ctrl_c_saves_and_prints_how_to_continue(tmp_path, uninterrupted):
    folder = tmp_path / "a run"
    process = started(folder)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert "press Ctrl-C again to quit immediately" in err
    assert "Traceback" not in err
    assert re.search(r"interrupted in epoch [23] after \d+ of 144 batches; saved", out)
    (command,) = re.findall(r"continue with: (.*)", out)
    words = shlex.split(command)
    assert words == ["python", "-m", "tssl_triton", "train", "--resume", str(folder)]
    assert run(*words[3:], "--progress", "lines") == 0
    assert_same_result(folder, uninterrupted)


def test_a_second_ctrl_c_quits_immediately(tmp_path, uninterrupted, capsys):
    folder = tmp_path / "run"
    process = started(folder)
    process.send_signal(signal.SIGSTOP)  # both signals are pending when the process continues
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    for _ in range(1000):
        process.send_signal(signal.SIGTERM)
        if process.poll() is not None:
            break
        time.sleep(0.005)
    process.communicate()
    assert process.returncode in (-signal.SIGTERM, -signal.SIGINT)
    assert run("train", "--resume", folder, "--progress", "lines") == 0
    assert_same_result(folder, uninterrupted)


def test_train_prints_folder_epochs_and_accuracy(uninterrupted, tmp_path, capsys):
    assert run("train", "--arch", "20", "--epochs", 2, "--progress", "lines", "--run-dir", tmp_path / "run") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"run folder {tmp_path / 'run'}"
    assert out[1].startswith("digits: 1437 training and 360 test images; network 20, 1480 weights, 5 steps, on ")
    assert [line.split("  ")[0] for line in out[2:4]] == ["epoch 1/2", "epoch 2/2"]
    assert re.fullmatch(r"test accuracy \d+\.\d\d% after 2 epochs", out[-1])


def test_learnt_constants_are_no_weights(tmp_path, capsys):
    words = ("--learn", "tau_mem,threshold", "--per", "neuron", "--epochs", 0, "--run-dir", tmp_path / "run")
    assert run("train", "--arch", "20", *words) == 0
    assert "network 20, 1480 weights and 60 learnt constants, 5 steps" in capsys.readouterr().out


def test_train_without_epochs(tmp_path, capsys):
    assert run("train", "--arch", "20", "--epochs", 0, "--run-dir", tmp_path / "run") == 0
    assert capsys.readouterr().out.endswith("no epochs to train\n")
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""


def test_train_in_the_default_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("train", "--arch", "20", "--epochs", 1) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("digits-")


def test_runs_started_in_the_same_second_have_different_folders(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda *_: "20260101-120000")
    stem = tmp_path / "runs" / "digits-20260101-120000"
    load = run_module.load_data

    def overtaken(config):
        stem.mkdir(parents=True, exist_ok=True)  # by another process, after this one has started
        (stem / "checkpoint.pt").touch()
        return load(config)

    monkeypatch.setattr(run_module, "load_data", overtaken)
    for number in (2, 3):
        assert run("train", "--arch", "20", "--epochs", 0) == 0
        assert f"run folder runs/{stem.name}-{number}\n" in capsys.readouterr().out
    assert run("train", "--arch", "20", "--epochs", 0, "--run-dir", tmp_path / "a b") == 0
    monkeypatch.setattr(run_module, "_exists", lambda folder: False)  # as if checked too early
    assert run("train", "--arch", "20", "--epochs", 0, "--run-dir", tmp_path / "a b") == 2
    assert capsys.readouterr().err == (
        f"tssl: error: run folder {tmp_path / 'a b'} already exists; continue it with: tssl train --resume "
        f"'{tmp_path / 'a b'}'; or choose another one\n"
    )
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_that_is_not_a_run_is_refused(tmp_path, capsys):
    assert run("train", "--arch", "20", "--run-dir", tmp_path) == 2
    assert capsys.readouterr().err == f"tssl: error: run folder {tmp_path} already exists; choose another one\n"


def test_standard_error_may_be_closed(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    assert run("train", "--arch", "20", "--epochs", 1, "--run-dir", tmp_path / "run") == 0


def test_a_name_that_the_terminal_cannot_show(tmp_path):
    folder = tmp_path / "länge"
    command = [sys.executable, "-m", "tssl_triton", "train", "--arch", "20", "--epochs", "0", "--run-dir", str(folder)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "l\\xe4nge" in done.stdout
    assert (folder / "checkpoint.pt").exists()


def test_evaluate_prints_the_accuracy_of_the_run(uninterrupted, capsys):
    before = {file.name: file.stat().st_mtime_ns for file in uninterrupted.iterdir()}
    assert run("evaluate", uninterrupted, "--test-batch-size", 100) == 0
    accuracy = metrics(uninterrupted)[-1]["test_accuracy"]
    assert capsys.readouterr().out == (
        f"test accuracy {accuracy:.2%} ({round(accuracy * 360)} of 360 images) after 3 epochs\n"
    )
    assert {file.name: file.stat().st_mtime_ns for file in uninterrupted.iterdir()} == before


def test_info_names_versions_devices_and_implementations(capsys):
    assert run("info") == 0
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["tssl-triton"] == metadata.version("tssl-triton")
    assert rows["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert rows["python"].startswith(".".join(map(str, sys.version_info[:2])))
    assert "C++ compiler" in rows
    assert rows["cpu"].endswith("runs: eager")


def test_info_reports_a_missing_compiler(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("TSSL_CPU")
    monkeypatch.setenv("CXX", "/nowhere/c++")
    monkeypatch.setattr("tssl_triton.cpu.compiler._eager_reason", None)
    _cpp._probe.cache_clear()
    with pytest.warns(RuntimeWarning, match="/nowhere/c\\+\\+: not found"):
        assert run("info") == 0
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["C++ compiler"] == "/nowhere/c++: not found"
    assert rows["cpu"].endswith("runs: eager")


def test_a_full_disk_is_reported_with_the_file(tmp_path):
    def write(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "checkpoint.pt"
    path.write_text("before")
    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{path}'")):
        write_atomically(path, write)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_flag_beats_the_file(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('dataset = "digits"\narch = "20"\nepochs = 9\nlr = 0.003\n')
    folder = tmp_path / "run"
    assert run("train", "--config", file, "--epochs", 1, "--run-dir", folder) == 0
    config = checkpoint.load(folder / "checkpoint.pt")["config"]
    assert (config["epochs"], config["lr"], config["arch"], config["steps"]) == (1, 0.003, "20", 5)


def test_a_run_can_be_repeated_from_its_own_config(tmp_path, uninterrupted):
    folder = tmp_path / "again"
    assert run("train", "--config", uninterrupted / "config.toml", "--run-dir", folder) == 0
    assert_same_result(folder, uninterrupted)


def test_every_setting_is_a_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        run("train", "--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for name in FIELD_TYPES:
        assert f"--{name.replace('_', '-')}" in shown
    assert "--no-download" in shown
    assert "defaults of the data sets:" in shown


def error_of(capsys, *words):
    """Assert exit status 2, one error on standard error and no traceback; returns its text."""
    try:
        status = run(*words)
    except SystemExit as exit_:
        status = exit_.code
    captured = capsys.readouterr()
    assert status == 2
    assert captured.err.startswith("tssl: error: ")
    assert "Traceback" not in captured.err
    return captured.err.removeprefix("tssl: error: ").rstrip("\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", r"the following arguments are required: .*; see 'tssl --help'"),
        ("fly", r"argument .* invalid choice: 'fly'.*; see 'tssl --help'"),
        ("train --speed 3", r"unrecognized arguments: --speed 3; see 'tssl --help'"),
        ("train --epochs many", r"argument --epochs: invalid int value: 'many'; see 'tssl train --help'"),
        ("train --optimizer sgd", r"argument --optimizer: invalid choice: 'sgd' .*"),
        ("train --lr -1", r"lr must be > 0, got -1\.0"),
        ("train --tau-syn 0", r"tau_syn must be a finite number >= 1 .*, got 0\.0"),
        ("train --config none.toml", r"cannot read configuration file none\.toml: No such file or directory"),
        ("train --resume none", r"no checkpoint at none/checkpoint\.pt"),
        ("train --resume none --run-dir x", r"--run-dir cannot be combined with --resume: .*"),
        ("train --resume none --config x", r"--config cannot be combined with --resume: .*"),
        ("train --device cuda:99", r"device 'cuda:99' does not exist: torch sees \d+ GPUs"),
        ("train --dataset mnist --data-root nowhere --no-download", r"mnist not found: looked for train-images-.*"),
        ("evaluate", r"the following arguments are required: RUN; see 'tssl evaluate --help'"),
        ("evaluate none", r"no checkpoint at none/checkpoint\.pt"),
    ],
)
def test_errors_are_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    error = error_of(capsys, *words.split())
    assert re.fullmatch(message, error), error
    assert os.listdir(tmp_path) == [], "a failing command creates no files"


def test_an_architecture_error_underlines_the_token(tmp_path, capsys):
    error = error_of(capsys, "train", "--arch", "15C5-Q2-300", "--run-dir", tmp_path / "run")
    assert error == (
        "architecture: token 'Q2' is not a convolution like 15C5, a pooling like P2 or a number of neurons like 300\n"
        "    15C5-Q2-300\n"
        "         ^^ position 6"
    )


def test_an_unknown_setting_names_the_nearest(tmp_path, capsys):
    (tmp_path / "settings.toml").write_text("bach_size = 3\n")
    error = error_of(capsys, "train", "--config", tmp_path / "settings.toml")
    assert error == f"unknown setting 'bach_size' in {tmp_path / 'settings.toml'}; did you mean 'batch_size'?"


def test_a_damaged_checkpoint_is_named(tmp_path, capsys):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"not a checkpoint")
    for command in (("train", "--resume"), ("evaluate",)):
        assert f"checkpoint {path} is damaged" in error_of(capsys, *command, tmp_path)


def test_an_existing_folder_is_refused(uninterrupted, capsys):
    before = (uninterrupted / "checkpoint.pt").read_bytes()
    error = error_of(capsys, "train", "--run-dir", uninterrupted)
    assert error.startswith(f"run folder {uninterrupted} already exists")
    assert (uninterrupted / "checkpoint.pt").read_bytes() == before


def test_a_flag_that_contradicts_the_run_is_refused(uninterrupted, capsys):
    error = error_of(capsys, "train", "--resume", uninterrupted, "--steps", 9)
    assert error == f"steps of the run {uninterrupted} is 5 and cannot be changed to 9"


def test_images_from_a_data_root(tmp_path, capsys):
    write_image_set(tmp_path, "FashionMNIST", train=60, test=20)
    words = ("--dataset", "fashion-mnist", "--data-root", tmp_path, "--arch", "20", "--epochs", 1)
    assert run("train", *words, "--run-dir", tmp_path / "run") == 0
    assert "fashion-mnist: 60 training and 20 test images" in capsys.readouterr().out
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "FashionMNIST").rename(moved / "FashionMNIST")
    assert run("evaluate", tmp_path / "run", "--data-root", moved, "--no-download") == 0


def test_the_installed_command():
    (entry,) = [e for e in metadata.entry_points(group="console_scripts") if e.name == "tssl"]
    assert entry.load() is cli.main
