"""Layers: packed bits change what is kept, never a number; a static input costs one product."""

import copy

import pytest
import torch
import torch.nn.functional as F
from comparing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from tssl_triton import (
    LIF,
    LIFParameters,
    PackedSpikes,
    SpikePool2d,
    SpikingConv2d,
    SpikingLinear,
    SpikingSequential,
    TimeSharedDropout,
    encoding,
    lif,
)
from tssl_triton.nn.products import Conv2d, KeptInput

pytestmark = pytest.mark.implementation


@pytest.fixture(autouse=True)
def _eager(eager):
    """Compiling the loops would take longer than these tests; the arithmetic is the same."""


def spike_train(*shape, seed=0):
    """A spike train and the current that it comes from."""
    generator = torch.Generator().manual_seed(seed)
    current = (2.0 * torch.randn(shape, generator=generator)).requires_grad_()
    return current, lif(current)


LAYERS = [
    SpikingLinear(3 * 6 * 6, 7, bias=True),
    SpikingConv2d(3, 4, 3, padding=1, bias=True),
    SpikingConv2d(3, 4, (3, 2), stride=(2, 1)),
    SpikePool2d(2),
    SpikePool2d(2, "average"),
    SpikePool2d((3, 2), "max"),
    SpikingSequential(SpikePool2d(2), SpikingConv2d(3, 4, 3), SpikingLinear(4, 5)),
    SpikingSequential(SpikePool2d(2, "max"), TimeSharedDropout(0.5), SpikingLinear(27, 5)),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_the_packed_input_gives_the_gradients_of_the_dense_one(layer):
    results = []
    for packed in (True, False):
        current, spikes = spike_train(5, 2, 3, 6, 6)
        layer.zero_grad()
        torch.manual_seed(1)
        out = layer(PackedSpikes.pack(spikes) if packed else spikes)
        out.backward(torch.linspace(-1, 1, out.numel()).view_as(out))
        results.append([out.detach(), current.grad, *(p.grad.clone() for p in layer.parameters())])
    assert results[0][1].any()
    for k, (from_bits, dense) in enumerate(zip(*results, strict=True)):
        assert_close(f"result {k}", from_bits, dense, rtol=1e-5, atol=1e-6)


def test_a_convolution_is_the_convolution_of_each_step():
    layer = SpikingConv2d(3, 4, 3, padding=1)
    _, spikes = spike_train(5, 2, 3, 6, 6)
    want = torch.stack([F.conv2d(s, layer.weight, padding=1) for s in spikes])
    assert_close("y", layer.weighted(spikes).detach(), want.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("channels", [3, 5, 16, 17])
@pytest.mark.parametrize("last", [False, True], ids=["channels-first", "channels-last"])
@pytest.mark.parametrize("needed", [(True, True, True), (False, True, False), (True, False, True)])
def test_gradients_of_a_convolution(channels, last, needed):
    """They have the memory order of forward, whichever they are computed in."""
    generator = torch.Generator().manual_seed(0)
    order = torch.channels_last if last else torch.contiguous_format
    x, weight, grad = (
        torch.randn(shape, generator=generator).to(memory_format=order)
        for shape in ((6, channels, 7, 8), (4, channels, 3, 2), (6, 4, 4, 9))
    )
    convolution = Conv2d((2, 1), (1, 1))
    images = x.unflatten(0, (3, 2))
    given = KeptInput(images.shape, images.dtype, (images,))
    found = convolution.gradients(grad.unflatten(0, (3, 2)), given, weight, needed)
    leaves = [t.double().requires_grad_() for t in (x, weight, torch.zeros(4))]
    y = F.conv2d(*leaves, stride=(2, 1), padding=(1, 1))
    want = torch.autograd.grad(y, leaves, grad.double())
    for is_needed, got, true, like in zip(needed, found, want, (images, weight, None), strict=True):
        if is_needed:
            assert_close("gradient", got, true.view(got.shape).float(), rtol=1e-5, atol=1e-5)
            assert like is None or got.stride() == like.stride()


def test_pooling_sums_times_its_scale():
    _, spikes = spike_train(5, 2, 3, 7, 6)
    windows = spikes.detach()[..., :6, :].unfold(3, 2, 2).unfold(4, 2, 2)
    assert_close("sum", SpikePool2d(2)(spikes).detach(), 1.1 * windows.sum((-1, -2)), rtol=1e-6)
    assert_close("average", SpikePool2d(2, "average")(spikes).detach(), windows.mean((-1, -2)), rtol=1e-6)
    assert_close("max", SpikePool2d(2, "max")(spikes).detach(), windows.amax((-1, -2)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [(2, 2), (1, 1), (3, 2), (1, 2), (2, 1), (4, 5)])
@pytest.mark.parametrize("shape", [(6, 10), (7, 11), (4, 5)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_pooling_and_its_gradient_are_those_of_pytorch(dtype, size, shape, memory):
    x = torch.randint(0, 4, (6, 3, *shape)).to(dtype).contiguous(memory_format=memory).requires_grad_()
    before = x.detach().clone()
    pooled = SpikePool2d(size, scale=0.5)(x.unflatten(0, (2, 3)))
    want = 0.5 * F.avg_pool2d(x, size, divisor_override=1)
    weight = torch.randn_like(want)
    assert_close("sums", pooled.flatten(0, 1).detach(), want.detach())
    (mine,) = torch.autograd.grad(pooled.flatten(0, 1), x, weight)
    (theirs,) = torch.autograd.grad(want, x, weight)
    assert_close("gradient", mine, theirs)
    assert_close("the input, untouched", x.detach(), before)


def test_dropout_shares_its_mask_over_time_and_rests_in_evaluation():
    layer = TimeSharedDropout(0.5)
    out = layer(torch.ones(6, 3, 200))
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert (out == out[0]).all()
    assert not (out[:, 0] == out[:, 1]).all()
    layer.eval()
    assert (layer(torch.ones(6, 3, 200)) == 1).all()


class Counting(TorchDispatchMode):
    """Counts products with weights."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ("mm", "addmm", "convolution"):
            self.rows.append(args[1 if name == "addmm" else 0].shape[0])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("layer", "shape"), [(SpikingLinear(12, 5), (12,)), (SpikingConv2d(3, 4, 3), (3, 6, 6))])
def test_a_static_input_costs_one_product_and_gives_the_same(layer, shape):
    images = torch.randn(4, *shape)
    with Counting() as counting:
        out = layer(encoding.static(images, 5))
    assert counting.rows == [4]
    out.backward(torch.ones_like(out))
    gradient = layer.weight.grad.clone()
    layer.zero_grad()
    dense = layer(encoding.static(images, 5).dense())
    dense.backward(torch.ones_like(dense))
    assert torch.equal(out, dense)
    assert_close("weight gradient", gradient, layer.weight.grad, rtol=1e-5, atol=1e-5)


def test_windows_of_a_network():
    net = SpikingSequential(
        SpikingConv2d(1, 4, 3, weight_scale=3.0), SpikePool2d(2), SpikingLinear(16, 6, weight_scale=2.0)
    )
    x = torch.randn(21, 2, 1, 6, 6)
    whole = net(x)
    assert whole.any()
    state, parts = None, []
    for part in x.split([7, 13, 1]):
        spikes, state = net(part, state, return_state=True)
        parts.append(spikes)
    assert torch.equal(torch.cat(parts), whole)


def test_a_copy_and_a_loaded_state_compute_the_same():
    net = SpikingSequential(SpikingLinear(12, 9, LIFParameters(tau_mem=9.0)), LIF(synapse=False))
    x = torch.randn(5, 2, 12)
    twin = copy.deepcopy(net)
    assert torch.equal(twin(x), net(x))
    other = SpikingSequential(SpikingLinear(12, 9, LIFParameters(tau_mem=9.0)), LIF(synapse=False))
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))
    assert list(net.state_dict()) == ["0.weight"]


def test_autocast():
    net = SpikingSequential(SpikingConv2d(1, 4, 3), SpikePool2d(2), SpikingLinear(16, 6))
    x = torch.randn(5, 2, 1, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        spikes = net(x)
    assert spikes.dtype == torch.bfloat16
    spikes.float().sum().backward()
    for weight in net.parameters():
        assert weight.grad.dtype == torch.float32
        assert weight.grad.isfinite().all()
        assert weight.grad.any()


def test_autocast_may_begin_behind_a_float32_spike_train():
    current, spikes = spike_train(5, 2, 12)
    net = SpikingSequential(TimeSharedDropout(0.5), SpikingLinear(12, 6, weight_scale=3.0))
    with torch.autocast("cpu", torch.bfloat16):
        out = net(spikes)
    out.float().sum().backward()
    assert current.grad.dtype == net[1].weight.grad.dtype == torch.float32
    assert net[1].weight.grad.any()
