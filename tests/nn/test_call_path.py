"""How many files a forward pass goes through: what a reader has to open to follow it."""

import os
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import tssl_triton.kernels.layout

import tssl_triton
from tssl_triton import SpikingLinear, SpikingSequential

FOLDERS = [str(Path(module.__file__).parent) for module in (tssl_triton, tssl_triton.kernels.layout)]

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the path of a CPU")


def traced(function):
    """Calls of the package's functions into each file from another of its files, in ``function()``."""
    into, stack, files = Counter(), [], set()

    def note(frame, event, _):
        file = frame.f_code.co_filename
        if not any(file.startswith(folder) for folder in FOLDERS):
            return
        if event == "call":
            files.add(file)
            if stack and stack[-1] != file:
                into[Path(file).name] += 1
            stack.append(file)
        elif event == "return":
            stack.pop()

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return files, into


def test_the_second_forward_of_three_layers_stays_in_few_files():
    torch.manual_seed(0)
    net = SpikingSequential(SpikingLinear(784, 400), SpikingLinear(400, 400), SpikingLinear(400, 10))
    x = torch.rand(5, 100, 784)
    net(x)
    files, into = traced(lambda: net(x))
    print(f"{len(files)} files, {into.total()} moves between them: {dict(into)}")
    assert len(files) <= 8
    assert into.total() <= 24
