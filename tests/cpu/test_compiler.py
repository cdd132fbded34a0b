"""Compiling: the cache on disk, choosing a compiler, and running without one."""

import os
import subprocess
import sys

import pytest

from tssl_triton import cpu

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="this process runs the Triton kernels instead"
)


def test_the_compiler_is_used():
    assert cpu.implementation() == "native"


STEP = """
import torch
from tssl_triton import LIFParameters, cpu
y, grad = torch.full((3, 1, 2), 2.0), torch.empty(3, 1, 2)
spikes, words = torch.empty_like(y), torch.empty(1, 1, 2, dtype=torch.uint8)
cpu.lif_forward(y, spikes, words, None, None, None, params=LIFParameters(), synapse=True)
cpu.lif_backward(torch.ones(3, 1, 2), y, words, None, None, grad, params=LIFParameters(), synapse=True)
print(cpu.implementation(), grad.sum().item())
"""


def compiling_process(tmp_path, script=STEP, **environment):
    """A process whose compiler notes when it is called; what it prints, and how often that was."""
    log, wrapper = tmp_path / "calls", tmp_path / "compiler"
    if not wrapper.exists():
        wrapper.write_text(f'#!/bin/sh\necho call >> "{log}"\nexec {cpu.compiler_command()[0]} "$@"\n')
        wrapper.chmod(0o755)
    log.write_text("")
    environment = {**os.environ, "CXX": str(wrapper), "TSSL_CACHE_DIR": str(tmp_path / "cache"), **environment}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return run.stdout.split(), len(log.read_text().split()), run.stderr


def test_what_is_compiled_serves_the_next_process(tmp_path):
    first, calls, _ = compiling_process(tmp_path)
    assert first[0] == "native"
    assert calls > 0
    assert compiling_process(tmp_path)[:2] == (first, 0)
    libraries = sorted((tmp_path / "cache").iterdir())
    assert {library.suffix for library in libraries} == {".so"}  # nothing of the compiler's is left
    libraries[0].write_bytes(b"cut off")
    repaired, calls, _ = compiling_process(tmp_path)
    assert repaired == first
    assert calls > 0


def test_a_cache_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    out, calls, _ = compiling_process(tmp_path, TSSL_CACHE_DIR=str(tmp_path / "file" / "cache"))
    assert out[0] == "native"
    assert calls > 0


def test_a_compiler_with_arguments(tmp_path):
    out, calls, _ = compiling_process(tmp_path, CXX=f"{tmp_path / 'compiler'} -DNOTHING")
    assert out[0] == "native"
    assert calls > 0


def test_a_compiler_that_fails(tmp_path):
    out, _, said = compiling_process(tmp_path, CXX="false")
    assert out[0] == "eager"
    assert "ended with status 1" in said


def test_without_a_compiler_it_warns_once_and_runs_eagerly(tmp_path):
    script = """
import os, warnings, torch
from tssl_triton import LIFParameters, cpu
generator = torch.Generator().manual_seed(0)
y = 2 * torch.rand(5, 100, 256, generator=generator)
def step():
    spikes, filtered, grad = torch.empty_like(y), torch.empty_like(y), torch.empty_like(y)
    words = torch.empty(1, 100, 256, dtype=torch.uint8)
    cpu.lif_forward(y, spikes, words, None, None, None, params=LIFParameters(), synapse=True)
    cpu.psc(spikes, filtered, None, None, tau_syn=3.0, reverse=False)
    cpu.lif_backward(filtered, y, words, None, None, grad, params=LIFParameters(), synapse=True)
    images = spikes.view(500, 1, 16, 16)
    pooled = cpu.sum_pool(images, (2, 2), 0.25)
    weight = torch.ones(128, 256)
    assert cpu.takes_spikes(5, 100, weight.shape, weight.dtype)
    assert cpu.spike_product(words, 5, None, weight, None, most=1.0) is None
    assert cpu.spike_weight_gradient(torch.ones(5, 100, 128), words, 5, None, weight, most=1.0) is None
    assert cpu.spike_weight_gradient(torch.ones(5, 100, 10), words, 5, None, weight[:10]) is None
    assert cpu.count_pool(words.view(1, 100, 1, 16, 16), 5, torch.float32, (2, 2), 0.25) is None
    return spikes, filtered, grad, pooled, cpu.spread_pool(pooled, images.shape, (2, 2), 0.25)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = step()
    assert cpu.implementation() == "eager"
messages = [str(w.message) for w in caught if w.category is RuntimeWarning]
assert len(messages) == 1 and "install a C++ compiler" in messages[0], messages
os.environ["TSSL_CPU"] = "eager"
for one, other in zip(found, step()):
    assert one.any() and torch.equal(one, other), (one, other)
"""
    environment = {**os.environ, "CXX": str(tmp_path / "no-such-compiler"), "TSSL_CACHE_DIR": str(tmp_path / "cache")}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
