"""Pooling on a CPU: the same sums by C++, by strips and by PyTorch; from bits; and together with the neurons' loop."""

import os

import pytest
import torch

from tssl_triton import (
    LIFParameters,
    SpikePool2d,
    SpikingConv2d,
    SpikingLinear,
    SpikingSequential,
    encoding,
    pack_spikes,
)
from tssl_triton.cpu.sum_pooling import SumPool
from tssl_triton.functional import constants
from tssl_triton.nn import chain as _chain
from tssl_triton.operators import pooled as _pooled_ops

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="this process runs the Triton kernels instead"
)

#: Of the last place, with a float32 sum in another order before it.
ROUNDING = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}

SIZES = [(1, 1), (2, 2), (3, 2), (4, 4), (12, 12)]
SHAPES = [(5, 2, 3, 24, 24), (3, 2, 1, 13, 17), (5, 1, 2, 12, 12)]


def draw(shape, dtype=torch.float32, channels_last=False, scale=1.0):
    values = scale * torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=dtype)
    if not channels_last:
        return values
    return values.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, shape[:2])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("size", "dtype"),
    # Each pair is compiled twice: every size in one type, and every type in one size.
    [*((size, torch.float32) for size in SIZES), *(((3, 2), dtype) for dtype in ROUNDING if dtype != torch.float32)],
)
def test_sums_and_their_transpose(compiled, size, shape, channels_last, dtype):
    pool = SumPool(size, 1.1)
    x = draw(shape, dtype, channels_last).requires_grad_()
    want_x = x.detach().to(torch.promote_types(dtype, torch.float32)).requires_grad_()
    sums = pool(x)
    want = 1.1 * torch.nn.functional.avg_pool2d(want_x.flatten(0, 1), size, divisor_override=1)
    torch.testing.assert_close(sums.flatten(0, 1), want.to(dtype), rtol=ROUNDING[dtype], atol=ROUNDING[dtype])
    grad = draw(sums.shape, dtype, channels_last)
    sums.backward(grad)
    want.backward(grad.flatten(0, 1).to(want.dtype))
    torch.testing.assert_close(x.grad, want_x.grad.to(dtype), rtol=ROUNDING[dtype], atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("channels_last", [False, True])
def test_compiled_or_not_the_bits_are_the_same(monkeypatch, dtype, channels_last):
    x = draw((3, 2, 4, 13, 17), dtype, channels_last, scale=30.0)
    results = []
    for how in ("native", "eager"):
        monkeypatch.setenv("TSSL_CPU", how)
        leaf = x.detach().requires_grad_()
        sums = SumPool((3, 2), 1.1)(leaf)
        sums.backward(draw(sums.shape, dtype, channels_last))
        results.append((sums.detach(), leaf.grad))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("steps", "words"), [(5, torch.uint8), (11, torch.int16), (40, torch.int32)])
@pytest.mark.parametrize("size", SIZES)
def test_sums_of_bits(monkeypatch, size, steps, words, channels_last):
    monkeypatch.delenv("TSSL_CPU", raising=False)
    pool = SumPool(size, 1.1)
    for dtype in (torch.float32, torch.float16, torch.bfloat16) if size == (2, 2) else (torch.float32,):
        spikes = (draw((steps, 2, 3, 13, 18), channels_last=channels_last) > 0.5).to(dtype)
        bits, sums = pack_spikes(spikes, words), pool(spikes)
        assert torch.equal(pool.of_bits(bits, steps, dtype), sums)
        turned = pool.of_bits(bits, steps, dtype, last=True)
        assert torch.equal(turned, sums)
        assert turned.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("side", [20, 260])
def test_sums_of_bits_over_windows_of_many(monkeypatch, side):
    """More than 255, and more than 65535 neurons, all of which fire: a count needs 16 bits and more."""
    monkeypatch.delenv("TSSL_CPU", raising=False)
    spikes = torch.ones(3, 1, 1, side, side + 1)
    assert torch.equal(
        SumPool((side, side), 0.5).of_bits(pack_spikes(spikes), 3, torch.float32), 0.5 * spikes[..., :1, :1] * side**2
    )


def test_layouts_that_are_neither(compiled):
    x = draw((3, 2, 4, 6, 6)).transpose(3, 4)
    assert torch.equal(SumPool((2, 3), 0.5)(x), SumPool((2, 3), 0.5)(x.contiguous()))


CASES = [  # steps, of the layer, of the pooling, type, channels last, the same input at each step
    (5, {}, {}, torch.float32, False, False),
    (5, {}, {}, torch.float32, True, True),
    (1, {"padding": 2}, {"kernel_size": 3}, torch.float64, False, True),
    (9, {"stride": 2, "params": LIFParameters(reset="subtract", warmup="silent")}, {"kind": "average"}, torch.float32,
     False, False),
    (5, {"rule": "stbp", "bias": True}, {"kernel_size": (5, 4)}, torch.float32, True, False),
    (5, {}, {}, torch.bfloat16, False, True),
]  # fmt: skip


def network(layer, pooling, channels_last, dtype):
    torch.manual_seed(0)
    net = SpikingSequential(
        SpikingConv2d(2, 3, 5, weight_scale=3.0, **layer),
        SpikePool2d(**{"kernel_size": 2, **pooling}),
        SpikingConv2d(3, 4, 3, padding=1, weight_scale=3.0),
        SpikePool2d(2),
    ).to(dtype)
    return net.to(memory_format=torch.channels_last) if channels_last else net


def outcome(net, x, apart, windows=1):
    """Spikes, state and gradients; with ``apart`` each layer sees what it would see on its own."""
    if apart:
        for layer in net:
            layer.register_forward_hook(lambda *_: None)
    net.zero_grad()
    static = isinstance(x, encoding.StaticInput)
    leaf = (x.values if static else x).detach().requires_grad_()
    given = encoding.static(leaf, x.steps) if static else leaf
    state, results = None, []
    for part in [given] * windows if static else given.chunk(windows):
        out, state = net(part, state, return_state=True)
        out.square().sum().backward()
        results += [out.detach(), *(each for layer in state if layer is not None for each in layer)]
    return [*results, leaf.grad, *(weight.grad for weight in net.parameters())]


@pytest.mark.parametrize(("steps", "layer", "pooling", "dtype", "channels_last", "static"), CASES)
def test_pooling_with_the_neurons_changes_no_bit(compiled, steps, layer, pooling, dtype, channels_last, static):
    x = draw((2, 2, 15, 14), dtype) if static else draw((2 * steps, 2, 2, 15, 14), dtype)
    x = encoding.static(x, steps) if static else x
    together, apart = (outcome(network(layer, pooling, channels_last, dtype), x, each, 2) for each in (False, True))
    for one, other in zip(together, apart, strict=True):
        assert torch.equal(one, other)


def pooled_calls(monkeypatch):
    calls = []
    inner = _chain.run

    def noting(chain, *given):
        calls.extend(link.neurons.pool for link in chain.links if link.neurons.pool is not None)
        return inner(chain, *given)

    monkeypatch.setattr(_chain, "run", noting)
    return calls


def test_which_layers_pool_at_once(monkeypatch):
    calls = pooled_calls(monkeypatch)
    x = draw((3, 2, 2, 15, 14))
    network({}, {}, False, torch.float32)(x)
    assert len(calls) == 2
    assert SpikingSequential(SpikingConv2d(2, 3, 5, recompute=True), SpikePool2d(2))(x).shape == (3, 2, 3, 5, 5)
    assert len(calls) == 3
    for net in (
        SpikingSequential(SpikingConv2d(2, 3, 5), SpikePool2d(2, kind="max")),
        SpikingSequential(SpikingConv2d(2, 3, 5, learn=("threshold",)), SpikePool2d(2)),
    ):
        assert net(x).shape == (3, 2, 3, 5, 5)
    assert len(calls) == 3


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_hook_sees_the_spikes(monkeypatch, hook, layer):
    calls, seen = pooled_calls(monkeypatch), []
    net = SpikingSequential(SpikingConv2d(2, 3, 5), SpikePool2d(2))
    getattr(net[layer], hook)(lambda *given: seen.append(len(given)))
    net(draw((3, 2, 2, 15, 14)).requires_grad_()).sum().backward()
    assert seen
    assert not calls


def test_a_forward_of_one_s_own_sees_the_spikes(monkeypatch):
    calls = pooled_calls(monkeypatch)

    class Layer(SpikingConv2d):
        def forward(self, x, state=None):
            return super().forward(x, state)

    class Pool(SpikePool2d):
        def forward(self, x):
            return super().forward(x)

    x = draw((3, 2, 2, 15, 14))
    for net in (
        SpikingSequential(Layer(2, 3, 5), SpikePool2d(2)),
        SpikingSequential(SpikingConv2d(2, 3, 5), Pool(2)),
        SpikingSequential(Layer(2, 3, 5), Layer(3, 4, 3)),
    ):
        assert net(x).shape[:2] == (3, 2)
    assert not calls


def test_peak_memory_holds_no_spikes_of_full_size():
    """Forward and backward of a layer and its pooling, each tensor as PyTorch's profiler reports it."""
    from bench.common.timing import peak_memory

    x = draw((5, 4, 1, 32, 32))
    net = SpikingSequential(SpikingConv2d(1, 8, 1), SpikePool2d(2))
    hooked = SpikingSequential(SpikingConv2d(1, 8, 1), SpikePool2d(2))
    hooked[0].register_forward_hook(lambda *given: None)

    def peak(net):
        return peak_memory(lambda: net(x).sum().backward(), x.device)

    spikes = 5 * 4 * 8 * 32 * 32 * x.element_size()
    assert peak(hooked) - peak(net) >= 0.7 * spikes


def test_an_image_smaller_than_the_window():
    net = SpikingSequential(SpikingConv2d(1, 2, 3), SpikePool2d(4))
    with pytest.raises(
        ValueError, match=r"x must be \(T, B, C, H, W\) with H >= 4 and W >= 4, got shape \(2, 1, 2, 3, 3\)"
    ):
        net(torch.zeros(2, 1, 1, 5, 5))


def test_a_linear_layer_before_a_pooling():
    with pytest.raises(ValueError, match=r"x must be \(T, B, C, H, W\)"):
        SpikingSequential(SpikingLinear(4, 8), SpikePool2d(2))(torch.zeros(2, 1, 4))


@pytest.mark.parametrize("carried", [False, True])
def test_opcheck(carried):
    y = draw((10, 2, 2, 6, 7))
    state = torch.rand(3, 2, 2, 6, 7) if carried else None
    settings = 2, 3, 1.1, *constants(LIFParameters())
    arguments = (y, state, 10, True, carried, *settings)
    torch.library.opcheck(_pooled_ops.lif_pool_forward.registered, arguments)
    pooled, words, checkpoints, _ = _pooled_ops.lif_pool_forward(*arguments)
    arguments = (torch.randn_like(pooled), y, words, checkpoints, state, *settings)
    torch.library.opcheck(_pooled_ops.lif_pool_backward.registered, arguments)
