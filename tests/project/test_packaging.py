"""The wheel and sdist: packages from their folders, and nothing else."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "tssl_triton": "tssl_triton",
    "kernels": "tssl_triton.kernels",
    "reference": "tssl_triton.reference",
}


def python(code, **options):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment, **options
    )


def test_every_folder_with_modules_is_declared():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    on_disk = {
        ".".join([FOLDERS[top], *path.parent.relative_to(ROOT / top).parts])
        for top in FOLDERS
        for path in (ROOT / top).rglob("*.py")
    }
    assert set(declared["packages"]) == on_disk
    assert declared["package-dir"] == {package: folder for folder, package in FOLDERS.items()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel built from this checkout's sdist."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return out


def test_the_wheel_holds_the_package_alone(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"tssl_triton"}
    for top, package in FOLDERS.items():
        for path in (ROOT / top).rglob("*.py"):
            assert f"{package.replace('.', '/')}/{path.relative_to(ROOT / top).as_posix()}" in names
    assert "tssl_triton/py.typed" in names
    for pattern in ("*.toml", "*.pyi", "*.hpp", "*.cpp"):
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tssl_triton").rglob(pattern)}
        assert files
        assert files <= set(names)


def test_the_wheel_works_away_from_the_checkout(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "import tssl_triton.reference, tssl_triton.kernels.layout as l; print(tssl_triton.__file__, l.WORD)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert run.stdout.split() == [str(tmp_path / "tssl_triton" / "__init__.py"), "32"], run.stderr


def test_the_sdist_holds_the_sources(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "kernels/neuron.py", "reference/phi.py"} <= names


def test_importing_the_package_needs_neither_torch_nor_triton():
    run = python("import sys, tssl_triton; print({'torch', 'triton'} & set(sys.modules) or 'neither')")
    assert run.stdout.strip() == "neither", run.stderr


def test_importing_the_layers_does_not_import_triton():
    run = python("import sys, tssl_triton.nn.weighted; print('triton' in sys.modules)")
    assert run.stdout.strip() == "False", run.stderr


def test_importing_everything_asks_for_no_device():
    code = """
import importlib, pkgutil, torch
def refuse(*_): raise RuntimeError("asked for a device")
torch.cuda.is_available = torch.cuda.device_count = torch.cuda.current_device = torch._C._cuda_init = refuse
import tssl_triton
for module in pkgutil.walk_packages(tssl_triton.__path__, "tssl_triton."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name in tssl_triton.__all__:
    getattr(tssl_triton, name)
print("done")
"""
    run = python(code)
    assert run.stdout.strip() == "done", run.stderr


@pytest.mark.parametrize("folder", ["kernels", "reference"])
def test_folders_of_the_checkout_are_not_modules(folder):
    run = python(f"import {folder}", cwd=ROOT)
    assert f"tssl_triton.{folder}" in run.stderr
    assert "ImportError" in run.stderr


def test_an_unknown_name_of_the_package():
    import tssl_triton

    with pytest.raises(AttributeError, match="module 'tssl_triton' has no attribute 'lift'"):
        tssl_triton.lift  # noqa: B018
    assert "lif" in dir(tssl_triton)


def test_continuous_integration_runs_the_readme_s_test_command():
    readme = (ROOT / "README.md").read_text().splitlines()
    (line,) = (line for line in readme if "tests/run.py" in line and "venv" in line)
    assert line in (ROOT / ".ci" / "run").read_text().splitlines()
