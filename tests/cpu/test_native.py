"""The CPU loop compiled: the same numbers as eagerly, few compilations, and life without a compiler."""

import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from comparing import assert_close, relative_error
from recomputing import assert_identical, backward_of, gradients

from tssl_triton import (
    STBP,
    LIFParameters,
    LIFState,
    SpikePool2d,
    SpikingConv2d,
    SpikingLinear,
    SpikingSequential,
    encoding,
    implementation,
    lif,
    pack_spikes,
    psc,
    unpack_spikes,
)
from tssl_triton.cpu import compiler as _cpp
from tssl_triton.cpu import neuron as _cpu
from tssl_triton.cpu.loop import Loop, Rows

GOLDEN = Path(__file__).parents[1] / "golden"

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="this process runs the Triton kernels instead"
)


def draw(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(hash(shape) % 2**31)
    return (1.5 * torch.randn(shape, generator=generator)).to(dtype)


def spikes_and_gradient(y, grad, **options):
    leaf = y.clone().requires_grad_()
    spikes = lif(encoding.static(leaf[0], len(grad)) if len(y) < len(grad) else leaf, **options)
    spikes.backward(grad)
    return spikes.detach(), leaf.grad


def test_the_compiler_is_used():
    assert implementation("cpu") == "native"


@pytest.mark.parametrize(
    ("steps", "dtype", "static", "options"),
    [
        (1, torch.float32, False, {}),
        (5, torch.float32, False, {"params": LIFParameters(reset="subtract", warmup="silent", variant="paper")}),
        (5, torch.float32, False, {"params": LIFParameters(variant="no-leak", warmup="always")}),
        (5, torch.float32, True, {"params": LIFParameters(tau_mem=math.inf, variant="no-intra")}),
        (5, torch.bfloat16, False, {}),
        (5, torch.float16, True, {}),
        (5, torch.float64, False, {}),
        (35, torch.float32, False, {}),
        (35, torch.float32, True, {"params": LIFParameters(tau_mem=9.0, warmup="off"), "synapse": False}),
        (5, torch.float32, False, {"rule": "stbp"}),
        (5, torch.float32, False, {"rule": STBP("triangular", reset_gradient="detached")}),
        (5, torch.float32, False, {"rule": STBP("rectangular")}),
        (5, torch.float32, False, {"rule": STBP("fast-sigmoid", reset_gradient="detached")}),
        (5, torch.bfloat16, True, {"rule": "slayer", "params": LIFParameters(reset="subtract")}),
        (35, torch.float32, False, {"rule": STBP("sigmoid", width=0.5)}),
    ],
)
def test_compiled_equals_eager(monkeypatch, steps, dtype, static, options):
    y, grad = draw(1 if static else steps, 3, 37, dtype=dtype), draw(steps, 3, 37, dtype=dtype)
    compiled = spikes_and_gradient(y, grad, **options)
    monkeypatch.setenv("TSSL_CPU", "eager")
    eager = spikes_and_gradient(y, grad, **options)
    assert torch.equal(compiled[0], eager[0])
    # The same operations in the same order; the exponentials of vectorised and scalar libraries differ by an ulp or
    # two, and a 16-bit result may round the other way.
    rtol = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[dtype]
    assert_close("gradient", compiled[1], eager[1], rtol=rtol, atol=1e-6)


def test_golden_neuron():
    case = np.load(GOLDEN / "neuron_00.npz")
    params = LIFParameters(float(case["tau_m"]), float(case["tau_s"]), float(case["threshold"]))
    current = torch.from_numpy(case["current"]).requires_grad_()
    out = psc(lif(current, params, synapse=False), params.tau_syn)
    out.backward(torch.from_numpy(case["grad_psc"]))
    assert relative_error(out.detach(), case["psc"]) < 2e-6
    assert relative_error(current.grad, case["grad_current"]) < 2e-6


def test_golden_network():
    case = np.load(GOLDEN / "network_4C5-P2-6C3-10.npz")
    net = SpikingSequential(SpikingConv2d(1, 4, 5), SpikePool2d(2), SpikingConv2d(4, 6, 3), SpikingLinear(24, 10))
    weights = list(net.parameters())
    for k, weight in enumerate(weights):
        weight.data = torch.from_numpy(case[f"weight_{k}"])
    out = psc(net(torch.from_numpy(case["input"])), 3.0)
    loss = 0.5 * (out - psc(torch.from_numpy(case["target_spikes"]), 3.0)).square().sum()
    loss.backward()
    assert loss.item() == pytest.approx(float(case["loss"]), rel=2e-6)
    assert relative_error(out.detach(), case["output_psc"]) < 2e-6
    for k, weight in enumerate(weights):
        assert relative_error(weight.grad, case[f"grad_{k}"]) < 2e-6


def test_recomputing_changes_no_bit():
    # The default neuron for 35 steps: windows that a test above has compiled already.
    results = []
    for recompute in (False, True):
        torch.manual_seed(0)
        options = {"weight_scale": 3.0, "recompute": recompute}
        net = SpikingSequential(SpikingConv2d(2, 4, 3, **options), SpikingLinear(64, 6, bias=True, **options))
        spikes = net(draw(35, 3, 2, 6, 6))
        backward_of(spikes)
        results.append([spikes.detach(), *gradients(net)])
    assert_identical(results)


def test_windows_with_state_and_packing():
    y = draw(21, 2, 19)
    whole = lif(y)
    state, parts = None, []
    for part in y.split([7, 13, 1]):
        spikes, state = lif(part, state=state, return_state=True)
        parts.append(spikes)
    assert isinstance(state, LIFState)
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(unpack_spikes(pack_spikes(whole), 21), whole)


def compilations(steps, *shape):
    before = len(_cpu._loops)
    spikes_and_gradient(draw(steps, *shape), draw(steps, *shape), params=LIFParameters(tau_mem=6.5))
    return len(_cpu._loops) - before


def test_compilations_depend_neither_on_batch_nor_on_time():
    assert compilations(35, 4, 30) > 0
    assert compilations(35, 2, 30) == 0
    assert compilations(35, 7, 11) == 0
    assert compilations(35, 1, 1) == 0
    assert compilations(67, 5, 30) == 0
    assert compilations(203, 4, 30) == 0
    assert compilations(499, 3, 10) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_neuron_s_numbers_do_not_depend_on_its_place(dtype):
    """Nor on the number of neurons: in a vector or after the last one, in whichever thread."""
    y, grad = draw(13, 1, 1, dtype=dtype), draw(13, 1, 1, dtype=dtype) + 0.5
    alone = spikes_and_gradient(y, grad)
    many = spikes_and_gradient(y.repeat(1, 3, 20_011), grad.repeat(1, 3, 20_011))
    for one, all_of_them in zip(alone, many, strict=True):
        assert torch.equal(one.expand_as(all_of_them), all_of_them)


def run_loop(window, *arguments):
    """A window of one's own, compiled and called."""
    Loop(window, arguments)(arguments)


def test_exponential():
    x = torch.cat([torch.linspace(-100.0, 88.0, 40_001), torch.linspace(-1.0, 1.0, 20_001), torch.tensor([math.nan])])
    y = torch.empty_like(x)
    run_loop(lambda given, out: out[0].copy_(torch.exp(given[0])), Rows(x[None], 0, 1), Rows(y[None], 0, 1))
    want = x.double().exp()
    near = x[:-1] > -87
    assert relative_error_each(y[:-1][near], want[:-1][near]) < 2.0**-22  # two units in the last place
    assert y[:-1][~near].abs().max() < 2e-38
    assert y[-1].isnan()


def test_reciprocals_of_what_is_positive():
    """Of a value whose range says so; of others the loop divides."""
    generator = torch.Generator().manual_seed(0)
    x = torch.cat(
        [torch.rand(400_000, generator=generator) + 1.0, 2.0 ** (250 * torch.rand(400_000, generator=generator) - 125)]
    )
    x = torch.cat([x, torch.tensor([0.0, 2.0**-125, 0.125, 1.0, 8.0, 2.0**125, math.nan])])
    out = x.new_empty(2, len(x))

    def window(given, out):
        out[0].copy_(1.0 / torch.clamp(given[0], min=2.0**-125))
        out[1].copy_(1.0 / given[0])

    run_loop(window, Rows(x[None], 0, 1), Rows(out, 0, 2))
    known, plain = out
    off = (known.view(torch.int32) - (1.0 / x.clamp(min=2.0**-125)).view(torch.int32)).abs()[:-1]
    assert off.max() <= 1
    assert (off > 0).sum() < 1e-4 * len(x)
    assert known[-1].isnan()
    assert torch.equal(plain[:-1], 1.0 / x[:-1])


def relative_error_each(mine, want):
    return ((mine.double() - want) / want).abs().max()


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_conversions_round_as_pytorch_does(narrow):
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (100_003,), generator=generator, dtype=torch.int64).to(torch.int32)
    edges = [
        0.0,
        -0.0,
        1.00390625,
        1.01171875,
        65504.0,
        65519.99,
        65520.0,
        2.0**-14,
        2.0**-24,
        2.0**-25,
        1.0001 * 2**-25,
    ]
    small = (torch.rand(1000, generator=generator) - 0.5) * 2**-13
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(narrow).float()
    x = torch.cat([bits.view(torch.float32), torch.randn(1000), small, every, torch.tensor(edges)])
    x = torch.where(x.abs() < 2**-126, 0.0, x)  # subnormal numbers of float32 are 0 in a loop
    down, up = torch.empty(1, len(x), dtype=narrow), torch.empty(1, len(x))
    run_loop(lambda given, out: out[0].copy_(given[0]), Rows(x[None], 0, 1), Rows(down, 0, 1))
    run_loop(lambda given, out: out[0].copy_(given[0]), Rows(down, 0, 1), Rows(up, 0, 1))
    want = x.to(narrow)
    assert torch.equal(down[0].isnan(), want.isnan())
    number = ~want.isnan()
    assert torch.equal(down[0][number].view(torch.int16), want[number].view(torch.int16))
    assert torch.equal(up[0][number], want[number].float())


def test_rows_in_any_order_and_in_place():
    x, total = torch.randn(4, 1000), torch.randn(2, 1000)
    given = Rows(x, 3, 3, -1), Rows(x, 2, 2, 0), Rows(total, 1, 1), x[0].to(torch.int32), 5

    def window(rows, same, out, word, number):
        out[0].add_(rows[0] - rows[2] * 2.0 + same[1])
        out[0].copy_(out[0] + ((word + number) >> 1))

    want = total[1] + (x[3] - x[1] * 2.0 + x[2])
    want = want + ((x[0].to(torch.int32) + 5) >> 1)
    run_loop(window, *given)
    assert torch.equal(total[1], want)


def test_numbers_too_small_to_matter_are_zero_in_the_loop_alone():
    x = torch.full((1, 1000), 1e-30)
    out = torch.empty_like(x)
    run_loop(lambda given, out: out[0].copy_(given[0] * 1e-10 * 1e10), Rows(x, 0, 1), Rows(out, 0, 1))
    assert not out.any() or platform.machine() not in ("x86_64", "AMD64")
    assert (x * 1e-10).all()  # PyTorch's own keep them, in every thread


def test_an_operation_without_c_plus_plus():
    with pytest.raises(NotImplementedError, match=r"no C\+\+ for aten.sin.default; add it to tssl_triton/cpu/loop.py"):
        run_loop(lambda x: x[0].copy_(torch.sin(x[0])), Rows(torch.zeros(1, 3), 0, 1))


STEP = """
import torch
from tssl_triton import implementation, lif
y = torch.full((3, 1, 2), 2.0, requires_grad=True)
lif(y).sum().backward()
print(implementation("cpu"), y.grad.sum().item())
"""


def compiling_process(tmp_path, script=STEP, **environment):
    """A process whose compiler notes when it is called; what it prints, and how often that was."""
    log, wrapper = tmp_path / "calls", tmp_path / "compiler"
    if not wrapper.exists():
        wrapper.write_text(f'#!/bin/sh\necho call >> "{log}"\nexec {_cpp.compiler()[0]} "$@"\n')
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


def test_without_a_compiler_it_says_so_once_and_runs_eagerly(tmp_path):
    script = """
import warnings, torch
from tssl_triton import implementation, lif, psc
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    y = torch.full((3, 1, 2), 2.0, requires_grad=True)
    for _ in range(2):
        psc(lif(y), 3.0).sum().backward()
said = [w for w in caught if "C++ compiler" in str(w.message)]
assert len(said) == 1 and said[0].category is RuntimeWarning, [str(w.message) for w in caught]
assert implementation("cpu") == "eager"
assert lif(y.detach()).flatten().tolist() == [0, 0, 1, 1, 1, 1], lif(y.detach())
"""
    run = without_a_compiler(tmp_path, script)
    assert run.returncode == 0, run.stderr


def without_a_compiler(folder, script):
    environment = {**os.environ, "CXX": str(folder / "no-such-compiler"), "TSSL_CACHE_DIR": str(folder / "cache")}
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)


def test_a_network_without_a_compiler(tmp_path):
    script = """
import os, warnings, torch
from tssl_triton import SpikePool2d, SpikingConv2d, SpikingLinear, SpikingSequential, losses
torch.manual_seed(0)
net = SpikingSequential(
    SpikingConv2d(1, 4, 3, weight_scale=3.0), SpikePool2d(2), SpikingLinear(100, 128, weight_scale=2.0),
    SpikingLinear(128, 256, weight_scale=3.0), SpikingLinear(256, 5, weight_scale=3.0),
)
x = torch.rand(5, 80, 1, 12, 12)
def step():
    net.zero_grad()
    spikes = net(x)
    losses.van_rossum_loss(spikes, torch.ones_like(spikes), 3.0).backward()
    with torch.no_grad():
        assert torch.equal(net(x), spikes)
    return [spikes.detach(), *(weight.grad for weight in net.parameters())]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = step()
said = [w for w in caught if "C++ compiler" in str(w.message)]
assert len(said) == 1, [str(w.message) for w in caught]
os.environ["TSSL_CPU"] = "eager"
for one, other in zip(found, step()):
    assert one.any() and torch.equal(one, other), (one, other)
"""
    run = without_a_compiler(tmp_path, script)
    assert run.returncode == 0, run.stderr
