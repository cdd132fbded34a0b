"""Generated loops: the arithmetic of single operations, conversions and rows."""

import math
import os
import platform

import pytest
import torch

from tssl_triton.cpu.arguments import Rows, signature
from tssl_triton.cpu.loop import Call, Loop
from tssl_triton.cpu.neuron import make

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="this process runs the Triton kernels instead"
)


def run_loop(window, *arguments):
    """Compile a window and call it."""
    call = Call.of(Loop(window, [signature(argument) for argument in arguments]), arguments)
    make(call, [argument.tensor for argument in arguments if isinstance(argument, Rows)])


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
    """Where the range says that a value is positive; elsewhere the loop divides."""
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
    given = Rows(x, 3, 3, -1), Rows(x, 2, 2, 0), Rows(total, 1, 1), Rows(x[:1].to(torch.int32), 0, 1), 5

    def window(rows, same, out, word, number):
        out[0].add_(rows[0] - rows[2] * 2.0 + same[1])
        out[0].copy_(out[0] + ((word[0] + number) >> 1))

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
    with pytest.raises(NotImplementedError, match=r"no C\+\+ for aten.sin.default; add it to .*/codegen.py"):
        run_loop(lambda x: x[0].copy_(torch.sin(x[0])), Rows(torch.zeros(1, 3), 0, 1))
