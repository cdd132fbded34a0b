"""Recomputing as PyTorch sees it: autocast, changes in place, what is asked for, what it costs."""

import warnings

import pytest
import torch
from recomputing import CHOICES, assert_identical, backward_of, deep, draw, gradients, linear, seeded, strided
from torch.utils._python_dispatch import TorchDispatchMode

from tssl_triton import SpikePool2d, SpikingLinear, TimeSharedDropout, build_network, lif
from tssl_triton.operators import records as _packed


@pytest.fixture(autouse=True)
def _eager(eager):
    pass


@pytest.mark.parametrize("build", [linear, strided, deep("sum"), deep("max")], ids=lambda build: build.__name__)
@pytest.mark.parametrize("forward", [torch.bfloat16, None], ids=["cast in forward", "never cast"])
def test_only_the_autocast_of_forward_counts(build, forward):
    results = []
    for recompute, ambient in ((False, None), (False, torch.float16), (True, None), (True, torch.float16)):
        net = seeded(build, recompute)
        x = draw(9).mul_(2.0).requires_grad_()
        with torch.autocast("cpu", forward, enabled=forward is not None):
            spikes = net(x)
        with torch.autocast("cpu", ambient, enabled=ambient is not None):
            backward_of(spikes)
        assert spikes.dtype == (forward or torch.float32)
        results.append([spikes.detach(), x.grad, *gradients(net)])
    for others in results[1:]:
        assert_identical([results[0], others])


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", ["sum", "average", "max"])
@pytest.mark.parametrize("steps", [5, 11])
def test_an_input_is_rebuilt_in_its_own_values_and_memory_order(order, kind, steps):
    current = (2.0 * draw(steps).flatten(0, 1)).contiguous(memory_format=order).unflatten(0, (steps, 3))
    x = lif(current.requires_grad_())
    for layer in (SpikePool2d(2, kind), TimeSharedDropout(0.5), SpikePool2d((1, 3), kind)):
        x = layer(x)
        packed = _packed.recall(x)
        again = packed.rebuild(packed.tensors(), x.dtype)
        assert x.any()
        assert torch.equal(again, x)
        assert again.stride() == x.stride()


def test_a_layer_used_twice_and_a_graph_walked_twice():
    results = []
    for recompute in CHOICES:
        torch.manual_seed(5)
        layer = SpikingLinear(12, 12, bias=True, weight_scale=3.0, recompute=recompute)
        torch.nn.init.constant_(layer.bias, 0.4)
        spikes = layer(layer(draw(12).flatten(2)[..., :12] * 2.0))
        for _ in range(2):
            spikes.backward(torch.ones_like(spikes), retain_graph=True)
        results.append([spikes.detach(), *gradients(layer)])
    assert_identical(results)


@pytest.mark.parametrize("trained", ["input", "weight", "bias"])
def test_only_what_is_asked_for_gets_a_gradient(trained):
    results = []
    for recompute in CHOICES:
        net = seeded(linear, recompute).requires_grad_(False)
        x = draw(12).mul_(2.0)
        tensor = x if trained == "input" else getattr(net[0], trained)
        tensor.requires_grad_()
        spikes = net(x)
        backward_of(spikes)
        assert sum(t.grad is not None for t in (x, *net.parameters())) == 1
        results.append([spikes.detach(), tensor.grad])
    assert_identical(results)


@pytest.mark.parametrize("changed", ["weight", "bias", "input"])
def test_what_changes_in_place_before_backward_is_an_error(changed):
    net = seeded(linear, True)
    x = draw(5).mul_(2.0)
    spikes = net(x)
    with torch.no_grad():
        (x if changed == "input" else getattr(net[0], changed)).mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        spikes.sum().backward()


def test_without_gradients_nothing_is_recorded():
    x = draw(12).mul_(2.0)
    net = seeded(deep("sum"), True).eval()
    with torch.no_grad():
        spikes = net(x)
    assert spikes.grad_fn is None
    assert _packed.recall(spikes) is None
    assert net.requires_grad_(False)(x).grad_fn is None
    assert torch.equal(spikes, net(x))
    assert torch.equal(spikes, seeded(deep("sum"), False).eval()(x))


class Products(TorchDispatchMode):
    """Counts products with weights."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__ in ("mm", "addmm", "convolution", "convolution_backward")
        return function(*args, **(kwargs or {}))


def test_it_costs_one_more_product_per_layer():
    counts = []
    for recompute in CHOICES:
        net = seeded(deep("sum"), recompute)
        spikes = net(draw(12))
        with Products() as products:
            backward_of(spikes)
        counts.append(products.count)
    assert counts[1] == counts[0] + 4


def test_torch_compile_takes_it_as_one_graph():
    results = []
    for compiled in (False, True):
        net = seeded(deep("sum"), True).eval()
        run = torch.compile(net, fullgraph=True, backend="aot_eager") if compiled else net
        spikes = run(draw(5).mul_(2.0))
        backward_of(spikes)
        results.append([spikes.detach(), *(weight.grad for weight in net.parameters())])
    assert results[0][0].any()
    for plain, other in zip(*results, strict=True):
        torch.testing.assert_close(other, plain)


def test_a_trace_fires_the_same_spikes():
    net, x = seeded(deep("sum"), True).eval(), draw(5).mul_(2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is on its way out
        traced = torch.jit.trace(net, x, check_trace=False)
    assert net(x.flip(0)).any()
    assert torch.equal(traced(x.flip(0)), net(x.flip(0)))


def test_an_option_of_whole_networks():
    for recompute in CHOICES:
        net = build_network("4C3-P2-20", (1, 8, 8), 5, recompute=recompute)
        assert [net[k].recompute for k in (0, 2, 3)] == 3 * [recompute]
    with pytest.raises(TypeError, match="recompute must be True or False, got 1"):
        build_network("20", (8,), 5, recompute=1)
