"""The workflow files are valid, and the commands and files that they use exist."""

import os
import re
import shlex

import benches
import pytest

from bench.__main__ import parser

yaml = pytest.importorskip("yaml", reason="pyyaml reads the workflow files")
tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML reader")

ROOT = benches.ROOT
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
#: Commands of the GPU driver.
OF_THE_MACHINE = ("nvidia-smi", "rocm-smi")


def read(path):
    return yaml.safe_load(path.read_text())


def steps(path):
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def commands(path):
    lines = (line for step in steps(path) for line in step.get("run", "").splitlines())
    return [shlex.split(line) for line in lines if line.strip()]


def check(command):
    """Fail unless the command's parts exist in this repository."""
    program, *rest = command
    if program == ".ci/run":
        assert os.access(ROOT / program, os.X_OK)
    elif program == ".venv/bin/tssl":
        assert "tssl" in PROJECT["project"]["scripts"]
        assert rest == ["info"]
    elif program == ".venv/bin/mkdocs":
        assert rest == ["build", "--strict"]
        assert (ROOT / "mkdocs.yml").exists()
    elif program == ".venv/bin/pip":
        assert rest[0] == "install"
        for extras in re.findall(r"\.\[(.*)\]", " ".join(rest)):
            assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    elif program == ".venv/bin/python" and rest[:2] == ["-m", "bench"]:
        assert parser().parse_args(rest[2:]).run
    elif program == ".venv/bin/python" and rest[:2] == ["-m", "pytest"]:
        check_pytest(rest[2:])
    else:
        assert program in OF_THE_MACHINE or command == ["python3", "-m", "venv", ".venv"], command


def check_pytest(arguments):
    names = [marker.split(":")[0] for marker in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    assert arguments[arguments.index("-m") + 1] in names
    folders = [argument for argument in arguments if argument.startswith("tests")]
    assert folders
    assert all((ROOT / folder).is_dir() for folder in folders)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_a_workflow_runs_exists(path):
    assert commands(path)
    for command in commands(path):
        check(command)


def test_every_supported_python_is_tested():
    (job,) = read(ROOT / ".github/workflows/cpu.yml")["jobs"].values()
    classifiers = [line.rsplit(" ", 1)[1] for line in PROJECT["project"]["classifiers"] if ":: Python :: 3." in line]
    assert job["strategy"]["matrix"]["python"] == classifiers


@pytest.mark.parametrize("kind", ["nvidia", "rocm"])
def test_a_gpu_workflow(kind):
    path = ROOT / ".github/workflows" / f"gpu-{kind}.yml"
    (job,) = read(path)["jobs"].values()
    assert job["runs-on"] == ["self-hosted", "linux", "gpu", kind]
    # YAML reads a bare "on" as true. Pull requests from forks must not run on self-hosted machines.
    assert "pull_request" not in read(path)[True]
    run = commands(path)
    (measured,) = (line for line in run if line[1:4] == ["-m", "bench", "gpu"])
    arguments = parser().parse_args(measured[3:])
    (tested,) = (line for line in run if line[1:3] == ["-m", "pytest"])
    (report,) = (part.split("=")[1] for part in tested if part.startswith("--junitxml"))
    (upload,) = (step["with"]["path"] for step in steps(path) if "upload-artifact" in step.get("uses", ""))
    assert upload.split() == [report, str(arguments.json), str(arguments.png)]


@pytest.mark.parametrize(
    "line",
    [
        ".venv/bin/python -m bench gpus --json",
        ".venv/bin/python -m bench gpu --pdf",
        ".venv/bin/python -m pytest -m gpus tests/gpu",
        ".venv/bin/python -m pytest -m gpu tests/gpus",
        '.venv/bin/pip install -e ".[tests]"',
        ".ci/ran",
        "make test",
    ],
)
def test_what_does_not_exist_is_noticed(line, capsys):
    with pytest.raises((AssertionError, SystemExit)):
        check(shlex.split(line))
