"""Sum pooling on a CPU: the same sums in C++, from strips and by PyTorch; and from packed bits."""

import os

import pytest
import torch
from tssl_triton.kernels.layout import word_count

from tssl_triton import cpu

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="this process runs the Triton kernels instead"
)

#: Of the last place, after a float32 sum in another order.
ROUNDING = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}

SIZES = [(1, 1), (2, 2), (3, 2), (4, 4), (12, 12)]
SHAPES = [(10, 3, 24, 24), (6, 1, 13, 17), (5, 2, 12, 12)]


def draw(shape, dtype=torch.float32, channels_last=False, scale=1.0):
    values = scale * torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=dtype)
    return values.contiguous(memory_format=torch.channels_last) if channels_last else values


def packed(spikes, dtype):
    """Spikes ``(T, B, C, H, W)`` as words, in their memory format."""
    words = torch.empty_like(spikes[: word_count(len(spikes))], dtype=dtype)
    cpu.pack(spikes, words)
    return words


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("size", "dtype"),
    # Each pair is compiled twice: every size in one type, and every type in one size.
    [*((size, torch.float32) for size in SIZES), *(((3, 2), dtype) for dtype in ROUNDING if dtype != torch.float32)],
)
def test_sums_and_their_transpose(compiled, size, shape, channels_last, dtype):
    x = draw(shape, dtype, channels_last)
    exact = x.double().requires_grad_()
    sums = cpu.sum_pool(x, size, 1.1)
    want = 1.1 * torch.nn.functional.avg_pool2d(exact, size, divisor_override=1)
    torch.testing.assert_close(sums, want.to(dtype), rtol=ROUNDING[dtype], atol=ROUNDING[dtype])
    grad = draw(sums.shape, dtype, channels_last)
    spread = cpu.spread_pool(grad, shape, size, 1.1)
    want.backward(grad.to(want.dtype))
    torch.testing.assert_close(spread, exact.grad.to(dtype), rtol=ROUNDING[dtype], atol=1e-7)
    if compiled == "native" and not grad.is_contiguous():
        assert sums.is_contiguous(memory_format=torch.channels_last)
        assert spread.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("channels_last", [False, True])
def test_compiled_and_eager_sums_are_bit_identical(monkeypatch, dtype, channels_last):
    x = draw((6, 4, 13, 17), dtype, channels_last, scale=30.0)
    results = []
    for how in ("native", "eager"):
        monkeypatch.setenv("TSSL_CPU", how)
        sums = cpu.sum_pool(x, (3, 2), 1.1)
        results.append((sums, cpu.spread_pool(draw(sums.shape, dtype, channels_last), x.shape, (3, 2), 1.1)))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("steps", "words"), [(5, torch.uint8), (11, torch.int16), (40, torch.int32)])
@pytest.mark.parametrize("size", SIZES)
def test_sums_of_bits(monkeypatch, size, steps, words, channels_last):
    monkeypatch.delenv("TSSL_CPU", raising=False)
    for dtype in (torch.float32, torch.float16, torch.bfloat16) if size == (2, 2) else (torch.float32,):
        images = (draw((steps * 2, 3, 13, 18), channels_last=channels_last) > 0.5).to(dtype)
        bits, sums = packed(images.unflatten(0, (steps, 2)), words), cpu.sum_pool(images, size, 1.1)
        counted = cpu.count_pool(bits, steps, dtype, size, 1.1).flatten(0, 1)
        assert torch.equal(counted, sums)
        assert counted.stride() == sums.stride()
        counted = cpu.count_pool(bits, steps, dtype, size, 1.1, channels_last=True).flatten(0, 1)
        assert torch.equal(counted, sums)
        assert counted.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("side", [20, 260])
def test_sums_of_bits_over_large_windows(monkeypatch, side):
    """More than 255, and more than 65535 neurons, all of which fire: a count needs 16 bits and more."""
    monkeypatch.delenv("TSSL_CPU", raising=False)
    spikes = torch.ones(3, 1, 1, side, side + 1)
    counted = cpu.count_pool(packed(spikes, torch.uint8), 3, torch.float32, (side, side), 0.5)
    assert torch.equal(counted, 0.5 * spikes[..., :1, :1] * side**2)


def test_layouts_that_are_neither(compiled):
    x = draw((6, 4, 6, 6)).transpose(2, 3)
    sums = cpu.sum_pool(x.contiguous(), (2, 3), 0.5)
    assert torch.equal(cpu.sum_pool(x, (2, 3), 0.5), sums)
    grad = sums.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(cpu.spread_pool(grad, x.shape, (2, 3), 0.5), cpu.spread_pool(sums, x.shape, (2, 3), 0.5))


def test_no_images_and_traced_ones(compiled):
    assert cpu.sum_pool(torch.empty(0, 2, 4, 4), (2, 2), 1.0).shape == (0, 2, 2, 2)
    x = draw((2, 3, 6, 7))
    traced = torch.compile(lambda x: cpu.sum_pool(x, (3, 2), 1.1), backend="eager")
    assert torch.equal(traced(x), cpu.sum_pool(x, (3, 2), 1.1))
