"""What importing the reference pulls in, and how it refuses a wrong name."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python(code, cwd):
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_reference_needs_neither_torch_nor_triton(tmp_path):
    code = "import sys, tssl_triton.reference; print(sorted({'torch', 'triton'} & set(sys.modules)))"
    run = python(code, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_the_folder_is_no_package_of_its_own():
    # `python -c` has the working directory on its path, so the folder itself would be found.
    run = python("import reference", cwd=ROOT)
    assert run.returncode != 0
    assert "ImportError: this folder installs as tssl_triton.reference" in run.stderr
