"""The tests detect a broken neuron."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import mutations


def test_every_mutation_is_of_a_line_that_is_there():
    assert mutations.lost() == []


@pytest.mark.slow
def test_every_mutation_is_noticed():
    environment = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "TSSL_CPU")}
    script = Path(__file__).with_name("mutations.py")
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
