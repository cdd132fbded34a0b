"""Neurons on a CPU: prepared calls, longer runs and eager PyTorch all give the same numbers."""

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
from tssl_triton.kernels.layout import WINDOW, arithmetic_dtype, checkpoint_rows, word_count, word_dtype

from tssl_triton import SLAYER, STBP, LIFParameters, cpu
from tssl_triton.cpu import neuron

DEFAULT = LIFParameters()
GOLDEN = Path(__file__).parents[1] / "golden"

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="this process runs the Triton kernels instead"
)


def draw(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(hash(shape) % 2**31)
    return (1.5 * torch.randn(shape, generator=generator)).to(dtype)


def forward(y, steps, params=DEFAULT, synapse=True, constants=None, state=None, carry_state=False):
    """Spikes, words, checkpoints and the new state of neurons with inputs y."""
    spikes = torch.empty(steps, *y.shape[1:], dtype=y.dtype)
    words = torch.empty(word_count(steps), *y.shape[1:], dtype=word_dtype(steps))
    real = arithmetic_dtype(y.dtype)
    checkpoints = torch.empty(checkpoint_rows(steps), *y.shape[1:], dtype=real)
    new_state = torch.empty(3, *y.shape[1:], dtype=real) if carry_state else None
    options = {"params": params, "synapse": synapse, "constants": constants}
    cpu.lif_forward(y, spikes, words, checkpoints, state, new_state, **options)
    return spikes, words, checkpoints, new_state


def backward(grad, y, words, checkpoints, rule=None, params=DEFAULT, state=None, **options):
    """The gradient of y."""
    grad_y = torch.empty_like(y)
    options = {"synapse": True, **options}
    cpu.lif_backward(grad, y, words, checkpoints, state, grad_y, params=params, rule=rule, **options)
    return grad_y


def spikes_and_gradient(y, grad, rule=None, **options):
    spikes, words, checkpoints, _ = forward(y, len(grad), **options)
    return spikes, backward(grad, y, words, checkpoints, rule, **options)


def stbp(*args, **options):
    return STBP(*args, **options).surrogate_gradient


CASES = [  # steps, type, static, options
    (1, torch.float32, False, {}),
    (5, torch.float32, False, {"params": LIFParameters(reset="subtract", warmup="silent", variant="paper")}),
    (5, torch.float32, False, {"params": LIFParameters(variant="no-leak", warmup="always")}),
    (5, torch.float32, True, {"params": LIFParameters(tau_mem=math.inf, variant="no-intra")}),
    (5, torch.bfloat16, False, {}),
    (5, torch.float16, True, {}),
    (5, torch.float64, False, {}),
    (35, torch.float32, False, {}),
    (35, torch.float32, True, {"params": LIFParameters(tau_mem=9.0, warmup="off"), "synapse": False}),
    (5, torch.float32, False, {"rule": stbp()}),
    (5, torch.float32, False, {"rule": stbp("triangular", reset_gradient="detached")}),
    (5, torch.float32, False, {"rule": stbp("fast-sigmoid", reset_gradient="detached")}),
    (5, torch.bfloat16, True, {"rule": SLAYER().surrogate_gradient, "params": LIFParameters(reset="subtract")}),
    (35, torch.float32, False, {"rule": stbp("sigmoid", width=0.5)}),
]


@pytest.mark.parametrize(("steps", "dtype", "static", "options"), CASES)
def test_compiled_equals_eager(monkeypatch, steps, dtype, static, options):
    y, grad = draw(1 if static else steps, 3, 37, dtype=dtype), draw(steps, 3, 37, dtype=dtype)
    compiled = spikes_and_gradient(y, grad, **options)
    monkeypatch.setenv("TSSL_CPU", "eager")
    eager = spikes_and_gradient(y, grad, **options)
    assert torch.equal(compiled[0], eager[0])
    # The same operations in the same order, except for exponentials (an ulp or two), after which a 16-bit result may
    # round the other way.
    rtol = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[dtype]
    assert_close("gradient", compiled[1], eager[1], rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("learnt", [False, True])
def test_a_prepared_call_equals_a_run_with_a_state_of_zero(compiled, learnt):
    """A run with a state is not prepared: it goes window by window."""
    y, grad = draw(5, 3, 37), draw(5, 3, 37)
    options = {"params": LIFParameters(reset="subtract", warmup="silent")}
    results = []
    for state in (None, torch.zeros(3, 3, 37)):
        sums = torch.full((3, 3, 37), torch.nan)
        given = {**options, "constants": draw(3, 3, 37).abs() + 1.5} if learnt else options
        spikes, words, checkpoints, _ = forward(y, 5, state=state, **given)
        given = {**given, "grad_constants": sums} if learnt else given
        results.append((spikes, words, sums, backward(grad, y, words, checkpoints, state=state, **given)))
    for prepared, run in zip(*results, strict=True):
        torch.testing.assert_close(prepared, run, rtol=0, atol=0, equal_nan=True)
    assert results[0][0].any()
    assert results[0][2].isfinite().all() == learnt


@pytest.mark.parametrize("steps", [5, 21])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_may_overwrite_the_input(compiled, steps, dtype):
    y, grad = draw(steps, 2, 3, 11, dtype=dtype), draw(steps, 2, 3, 11, dtype=dtype)
    _, words, checkpoints, _ = forward(y, steps)
    want, place = backward(grad, y, words, checkpoints), y.clone()
    cpu.lif_backward(grad, place, words, checkpoints, None, place, params=DEFAULT, synapse=True)
    assert torch.equal(place, want)


@pytest.mark.parametrize("steps", [5, 21])
@pytest.mark.parametrize("static", [False, True])
def test_words_or_spikes_alone(compiled, steps, static):
    y = draw(1 if static else steps, 2, 3, 11)
    want, words, checkpoints, _ = forward(y, steps)
    options = {"params": DEFAULT, "synapse": True}
    alone, saved = torch.empty_like(words), torch.empty_like(checkpoints)
    cpu.lif_forward(y, None, alone, saved, None, None, steps=steps, **options)
    assert torch.equal(alone, words)
    assert torch.equal(saved, checkpoints)
    for dtype in (torch.float32, torch.uint8):
        spikes = torch.empty_like(want, dtype=dtype)
        cpu.lif_forward(y, spikes, None, None, None, None, **options)
        assert torch.equal(spikes.float(), want)


def test_any_memory_order(compiled):
    y, grad = draw(5, 2, 3, 4, 6), draw(5, 2, 3, 4, 6)
    want = spikes_and_gradient(y, grad)

    def channels_last(x):
        return x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)

    y, grad, words = channels_last(y), channels_last(grad), channels_last(torch.empty(1, 2, 3, 4, 6, dtype=torch.uint8))
    spikes, grad_y = torch.empty_like(y), torch.empty_like(y)
    cpu.lif_forward(y, spikes, words, None, None, None, params=DEFAULT, synapse=True)
    cpu.lif_backward(grad, y, words, None, None, grad_y, params=DEFAULT, synapse=True)
    assert torch.equal(spikes, want[0])
    assert torch.equal(grad_y, want[1])


def test_a_run_in_parts(compiled):
    y, grad = draw(21, 2, 19), draw(21, 2, 19)
    whole, want = spikes_and_gradient(y, grad)
    state, parts = None, []
    for part in y.split([7, 13, 1]):
        spikes, words, checkpoints, new_state = forward(part, len(part), state=state, carry_state=True)
        parts.append((part, spikes, words, checkpoints, state))
        state = new_state
    assert torch.equal(torch.cat([part[1] for part in parts]), whole)
    carry, gradients = torch.zeros(2, 2, 19), []
    for (part, _, words, checkpoints, before), errors in reversed([*zip(parts, grad.split([7, 13, 1]), strict=True)]):
        gradients.insert(0, backward(errors, part, words, checkpoints, state=before, carry=carry))
    assert torch.equal(torch.cat(gradients), want)


@pytest.mark.parametrize("steps", [1, 8, 21, 40])
def test_packing(compiled, steps):
    spikes = (draw(steps, 2, 19) > 0.5).float()
    words, back = torch.empty(word_count(steps), 2, 19, dtype=word_dtype(steps)), torch.empty_like(spikes)
    cpu.pack(spikes, words)
    cpu.unpack(words, back)
    assert torch.equal(back, spikes)
    assert torch.equal(words[0] & 1, spikes[0].to(words.dtype))


@pytest.mark.parametrize("reverse", [False, True])
def test_the_synaptic_filter(compiled, reverse):
    x = draw(21, 2, 19)
    want, a = [], torch.zeros(2, 19)
    for s in x.flip(0) if reverse else x:
        a = (1 - 1 / 3.0) * a + s * (1 / 3.0)
        want.append(a)
    want = torch.stack(want)
    out = torch.empty_like(x)
    for length in (5, 21):
        given = x[-length:] if reverse else x[:length]
        cpu.psc(given, out[:length], None, None, tau_syn=3.0, reverse=reverse)
        assert_close("psc", out[:length].flip(0) if reverse else out[:length], want[:length], rtol=1e-5, atol=1e-6)
    state = torch.empty(1, 2, 19)
    parts = x.flip(0).split([8, 13]) if reverse else x.split([8, 13])
    before = None
    for part in parts:
        cpu.psc(part.contiguous(), torch.empty_like(part), before, state, tau_syn=3.0, reverse=False)
        before = state.clone()
    assert_close("state", state[0], want[-1], rtol=1e-5, atol=1e-6)


def test_golden_neuron():
    case = np.load(GOLDEN / "neuron_00.npz")
    params = LIFParameters(float(case["tau_m"]), float(case["tau_s"]), float(case["threshold"]))
    current = torch.from_numpy(case["current"])
    spikes, words, checkpoints, _ = forward(current, len(current), params, synapse=False)
    out, grad = torch.empty_like(spikes), torch.empty_like(spikes)
    cpu.psc(spikes, out, None, None, tau_syn=params.tau_syn, reverse=False)
    grad_out = torch.from_numpy(case["grad_psc"]).contiguous()
    cpu.psc(grad_out, grad, None, None, tau_syn=params.tau_syn, reverse=True)
    grad_current = backward(grad, current, words, checkpoints, params=params, synapse=False)
    assert relative_error(out, case["psc"]) < 2e-6
    assert relative_error(grad_current, case["grad_current"]) < 2e-6


def compilations(steps, *shape):
    before = neuron._loop.cache_info().currsize
    spikes_and_gradient(draw(steps, *shape), draw(steps, *shape), params=LIFParameters(tau_mem=6.5))
    return neuron._loop.cache_info().currsize - before


def test_compilations_depend_neither_on_batch_nor_on_time():
    assert compilations(35, 4, 30) > 0
    assert compilations(35, 2, 30) == 0
    assert compilations(35, 7, 11) == 0
    assert compilations(35, 1, 1) == 0
    assert compilations(67, 5, 30) == 0
    assert compilations(203, 4, 30) == 0
    assert compilations(499, 3, 10) == 0


def test_prepared_calls_are_kept():
    y, grad = draw(WINDOW, 3, 5), draw(WINDOW, 3, 5)
    spikes_and_gradient(y, grad)
    before = neuron._forward_call.cache_info(), neuron._backward_call.cache_info()
    spikes_and_gradient(y.clone(), grad.clone())
    after = neuron._forward_call.cache_info(), neuron._backward_call.cache_info()
    assert [x.misses for x in after] == [x.misses for x in before]
    assert [x.hits for x in after] == [x.hits + 1 for x in before]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_neuron_s_numbers_do_not_depend_on_its_place(dtype):
    """Nor on the number of neurons: in a vector or after the last one, in whichever thread."""
    y, grad = draw(13, 1, 1, dtype=dtype), draw(13, 1, 1, dtype=dtype) + 0.5
    alone = spikes_and_gradient(y, grad)
    many = spikes_and_gradient(y.repeat(1, 3, 20_011), grad.repeat(1, 3, 20_011))
    for one, all_of_them in zip(alone, many, strict=True):
        assert torch.equal(one.expand_as(all_of_them), all_of_them)


FAULTS = """
import resource, torch
from tssl_triton import lif

lif(torch.zeros(5, 2, 3))

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(3):
    torch.zeros(10 << 20, dtype=torch.uint8)
before = faults()
for _ in range(20):
    torch.zeros(10 << 20, dtype=torch.uint8).fill_(1)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
def test_freed_memory_is_used_again():
    """Blocks of 10 MB have 2,560 pages each, which fault once and not for each block."""
    run = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 2560
