"""A weighted layer as one node on autograd's graph: its numbers, what it keeps, and what happens to that."""

import os
import warnings
from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from recomputing import CHOICES, assert_identical, backward_of, deep, gradients, linear, seeded, strided
from recomputing import draw as draw_small
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from tssl_triton import (
    STBP,
    LIFParameters,
    LIFState,
    PackedSpikes,
    SpikePool2d,
    SpikingConv2d,
    SpikingLinear,
    SpikingSequential,
    TimeSharedDropout,
    build_network,
    encoding,
    lif,
)
from tssl_triton.nn import products

pytestmark = pytest.mark.implementation

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
cpu_only = pytest.mark.skipif(INTERPRETED, reason="does not depend on the implementation; interpreted it is slow")


def network(recompute=False, hooked=False):
    """A network with a layer of each kind; hooked, each layer is called as a module and receives dense spikes."""
    torch.manual_seed(3)
    options = {"weight_scale": 3.0, "recompute": recompute}
    net = SpikingSequential(
        SpikingConv2d(2, 4, 3, **options),
        SpikePool2d(2),
        SpikingConv2d(4, 5, 2, LIFParameters(warmup="silent"), bias=True, **options),
        SpikingLinear(45, 20, LIFParameters(reset="subtract"), rule=STBP(), **options),
        SpikingLinear(20, 6, bias=True, **options),
    )
    return apart(net) if hooked else net


def apart(net):
    """The network with a hook on each layer."""
    for layer in net:
        layer.register_forward_hook(lambda *given: None)
    return net


def draw(steps):
    return 2 * torch.randn(steps, 3, 2, 10, 10, generator=torch.Generator().manual_seed(steps))


def results(net, x, steps):
    leaf = x.clone().requires_grad_()
    spikes = net(encoding.static(leaf[0], steps) if len(x) < steps else leaf)
    backward_of(spikes)
    return [spikes.detach(), leaf.grad, *gradients(net)]


def nodes(spikes):
    """How often each kind of node is on the graph of spikes."""
    found, waiting = set(), [spikes.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [following for following, _ in node.next_functions]
    return Counter(type(node).__name__ for node in found)


def bare(spikes):
    return spikes.dense() if isinstance(spikes, PackedSpikes) else spikes


# --- the numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("steps", "static"), [(5, False), (5, True), (19, False), (19, True)])
def test_a_sequence_has_the_numbers_of_its_layers_called_one_by_one(compiled, steps, static, recompute):
    x = draw(1 if static else steps)
    assert_identical([results(network(recompute, hooked), x, steps) for hooked in (False, True)])


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("learn", [(), ("tau_mem", "threshold")])
def test_a_layer_is_one_node(eager, recompute, learn):
    if learn and recompute:
        pytest.skip("layers with learnt constants do not recompute")
    net = SpikingSequential(*(SpikingLinear(8, 8, recompute=recompute, learn=learn, bias=True) for _ in range(3)))
    assert nodes(net(torch.rand(3, 2, 8)))["_LayerNodeBackward"] == 3


CHANGES = {
    "params": lambda net: setattr(net[0], "params", LIFParameters(tau_mem=3.0, threshold=0.7)),
    "rule": lambda net: setattr(net[0], "rule", STBP()),
    "recompute": lambda net: setattr(net[0], "recompute", True),
    "padding": lambda net: setattr(net[0], "padding", (1, 1)),
    "pool": lambda net: setattr(net[1], "scale", 1.7),
    "dropout": lambda net: setattr(net[2], "p", 0.5),
    "weight": lambda net: setattr(net[0], "weight", torch.nn.Parameter(net[0].weight[1:].detach().clone())),
    "dtype": lambda net: net.double(),
}


@cpu_only
@pytest.mark.parametrize("changed", CHANGES)
def test_a_setting_that_changes_counts_from_the_next_call(compiled, changed):
    x, runs = draw(5), []
    for before in (False, True):
        torch.manual_seed(3)
        net = SpikingSequential(SpikingConv2d(2, 4, 3, weight_scale=3.0), SpikePool2d(2), TimeSharedDropout(0.2))
        if before:
            net(x)
        CHANGES[changed](net)
        torch.manual_seed(4)
        runs.append(results(net, x.to(net[0].weight.dtype), 5))
    assert_identical(runs)


@pytest.mark.parametrize("static_first", [False, True])
def test_an_image_of_one_step_and_one_that_does_not_change(compiled, static_first):
    torch.manual_seed(3)
    net, image = SpikingSequential(SpikingLinear(50, 6, weight_scale=3.0)), draw(1)[..., :5, :5]
    found = []
    for static in (static_first, not static_first):
        leaf = image.clone().requires_grad_()
        spikes = net(encoding.static(leaf[0], 1) if static else leaf)
        backward_of(spikes)
        found.append((spikes, leaf.grad))
    (spikes, grad), (again, same) = found
    assert spikes.any()
    assert torch.equal(spikes, again)
    assert torch.equal(grad, same)


def dropping(hooked, training=True):
    """Dropout after layers of each kind, after a pooling, and at the end; the same masks each time."""
    options = {"weight_scale": 4.0}
    torch.manual_seed(3)
    net = SpikingSequential(
        SpikingConv2d(2, 4, 3, **options),
        SpikePool2d(2),
        TimeSharedDropout(0.3),
        SpikingConv2d(4, 5, 2, **options),
        TimeSharedDropout(0.3),
        SpikingLinear(45, 20, **options),
        TimeSharedDropout(0.3),
        SpikingLinear(20, 6, **options),
        TimeSharedDropout(0.3),
    ).train(training)
    torch.manual_seed(4)
    return apart(net) if hooked else net


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("steps", [5, 19])
def test_dropout(compiled, steps, training, channels_last):
    runs, order = [], torch.channels_last if channels_last else torch.contiguous_format
    for hooked in (False, True):
        x = draw(steps).flatten(0, 1).contiguous(memory_format=order).unflatten(0, (steps, 3))
        runs.append(results(dropping(hooked, training).to(memory_format=order), x, steps))
    assert_identical(runs)
    assert (runs[0][0] > 1).any() == training


def test_two_backwards_over_dropped_spikes(compiled):
    net = dropping(False)
    spikes = net(draw(5))
    grad = torch.randn_like(spikes)
    first, second = (torch.autograd.grad(spikes, list(net.parameters()), grad, retain_graph=True) for _ in range(2))
    assert_identical([[spikes.detach(), *first], [spikes.detach(), *second]])


def test_states_of_a_sequence(compiled):
    runs = []
    for hooked in (False, True):
        net, state, found, parts = network(hooked=hooked), None, [], []
        for part in draw(12).split([5, 1, 6]):
            spikes, state = net(part, state, return_state=True)
            backward_of(spikes)
            parts.append(spikes.detach())
            found += [row for layer in state if layer is not None for row in layer]
        assert [layer is None for layer in state] == [False, True, False, False, False]
        runs.append([torch.cat(parts), torch.cat([row.flatten() for row in found]), *gradients(net)])
    assert_identical(runs)
    assert torch.equal(network()(draw(12)), runs[0][0])


def test_a_state_without_a_state_afterwards(compiled):
    _, state = network()(draw(6), return_state=True)
    runs = []
    for carry in (False, True):
        net = network()
        # With hooks on saved tensors backward may not overwrite y.
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x) if carry else nullcontext():
            found = net(draw(5), state, return_state=carry)
        spikes = found[0] if carry else found
        backward_of(spikes)
        runs.append([spikes.detach(), *gradients(net)])
    assert_identical(runs)
    assert not torch.equal(runs[0][0], network()(draw(5)))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("steps", [5, 19])
def test_gradients_from_a_state_are_those_of_product_and_neurons(compiled, steps, recompute):
    torch.manual_seed(3)
    layer = SpikingLinear(8, 6, LIFParameters(reset="subtract"), weight_scale=3.0, recompute=recompute)
    x, state = torch.rand(steps, 3, 8), LIFState(*torch.rand(3, 3, 6))
    runs = []
    for run in (
        lambda: layer(x, state),
        lambda: lif(layer.weighted(x), layer.params, state=state),
    ):
        spikes = run()
        backward_of(spikes)
        runs.append([spikes.detach(), layer.weight.grad])
        layer.zero_grad()
    assert_identical(runs)
    assert not torch.equal(runs[0][0], layer(x))


def test_without_gradients(compiled):
    with torch.no_grad():
        spikes = network()(draw(5))
    assert spikes.grad_fn is None
    assert torch.equal(spikes, network()(draw(5)))


def test_an_empty_batch(compiled):
    net = network()
    spikes = net(torch.zeros(5, 0, 2, 10, 10))
    assert spikes.shape == (5, 0, 6)
    spikes.sum().backward()
    assert all(not weight.grad.any() for weight in net.parameters())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 3, 2, 10, 9), r"x must be \(T, B, \*\) with 45 features in all, got 30"),
        ((5, 3, 2, 3, 3), r"x must be \(T, B, C, H, W\) with H >= 2 and W >= 2, got shape \(5, 3, 4, 1, 1\)"),
        ((5, 3, 1, 10, 10), r"x must be \(T, B, 2, H, W\), got shape"),
    ],
)
def test_an_input_that_does_not_fit(compiled, shape, message):
    with pytest.raises(ValueError, match=message):
        network()(torch.zeros(shape))


def test_an_input_that_is_no_tensor(compiled):
    with pytest.raises(TypeError, match=r"x must be a tensor \(T, B, \*\), got list"):
        network()([1.0])


def test_a_layer_of_another_type(compiled):
    net = network()
    net[3].double()
    with pytest.raises(TypeError, match=r"x must be torch.float64 as the layer's weight is, got torch.float32"):
        net(draw(5))


# --- what a node keeps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("steps", [5, 19])
def test_two_backwards_give_the_same_gradients(compiled, steps, recompute):
    net, x = network(recompute), draw(steps).requires_grad_()
    spikes = net(x)
    wanted = [x, *net.parameters()]
    grad = torch.randn_like(spikes)
    first, second = (torch.autograd.grad(spikes, wanted, grad, retain_graph=again) for again in (True, False))
    assert_identical([[spikes.detach(), *first], [spikes.detach(), *second]])
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(spikes, wanted, grad)


def test_y_is_freed_in_backward(compiled):
    spikes = SpikingLinear(20, 6)(torch.rand(5, 3, 20))
    y, _, _ = spikes.grad_fn.own
    assert y.shape == (5, 3, 6)
    spikes.sum().backward(retain_graph=True)
    assert spikes.grad_fn.own is None


def test_hooks_on_saved_tensors_see_y_which_is_not_overwritten(compiled):
    x, seen = draw(5), []

    def pack(tensor):
        seen.append((tensor, tensor.clone()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        net = network()
        spikes = net(x)
    backward_of(spikes)
    assert sum(tensor.shape == (5, 3, 20) for tensor, _ in seen) == 1
    assert all(torch.equal(tensor, before) for tensor, before in seen)
    assert_identical([results(network(), x, 5), [spikes.detach(), *results(network(), x, 5)[1:2], *gradients(net)]])


def test_under_checkpointing(compiled):
    net, x = network(), draw(5).requires_grad_()
    spikes = checkpoint(net, x, use_reentrant=False)
    backward_of(spikes)
    assert_identical([results(network(), draw(5), 5), [spikes.detach(), x.grad, *gradients(net)]])


def test_a_weight_that_changes_before_backward_is_an_error(compiled):
    net = network()
    spikes = net(draw(5))
    with torch.no_grad():
        net[2].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        spikes.sum().backward()


@cpu_only
@pytest.mark.parametrize("frozen", [1, 2, 3])
def test_no_backward_below_the_first_layer_that_learns(compiled, frozen):
    net = network()
    layers = [net[0], net[2], net[3], net[4]]
    for layer in layers[:frozen]:
        layer.requires_grad_(False)
    spikes = net(draw(5))
    assert nodes(spikes)["_LayerNodeBackward"] == 4 - frozen
    backward_of(spikes)
    assert all(layer.weight.grad is None for layer in layers[:frozen])
    whole = network()
    backward_of(whole(draw(5)))
    for layer, same in zip(layers[frozen:], [whole[0], whole[2], whole[3], whole[4]][frozen:], strict=True):
        assert torch.equal(layer.weight.grad, same.weight.grad)


@cpu_only
def test_a_gradient_is_handed_over_and_not_copied(compiled, monkeypatch):
    made = []
    for kind in (products.Linear, products.Conv2d):

        def noting(*given, inner=kind.gradients):
            found = inner(*given)
            made.extend(each.data_ptr() for each in found if each is not None)
            return found

        monkeypatch.setattr(kind, "gradients", noting)
    net = network()
    backward_of(net(draw(5)))
    assert all(weight.grad.data_ptr() in made for weight in net.parameters())


@cpu_only
def test_peak_memory_of_a_step():
    """Backward writes the gradient of y over y, and packed spikes stand for the dense ones."""
    import benches  # noqa: F401 - finds bench

    from bench.common.timing import peak_memory

    x = torch.rand(8, 64, 200)
    net = SpikingSequential(*(SpikingLinear(200, 200) for _ in range(4)))

    def step():
        net(x).sum().backward()
        net.zero_grad(set_to_none=True)

    rows, weights = 4 * 8 * 64 * 200, 4 * 4 * 200 * 200
    # Each layer's y; and of the last layer the gradient of its spikes, which are still there.
    assert peak_memory(step, x.device) <= 6.5 * rows + weights


# --- spikes that change between layers --------------------------------------------------------------------------


def zeroed_data(spikes):
    spikes.data.zero_()


def zeroed_view(spikes):
    spikes.detach().numpy()[:] = 0


def zeroed_storage(spikes):
    spikes.untyped_storage().fill_(0)


def zeroed_detached(spikes):
    spikes.detach().zero_()


@cpu_only
@pytest.mark.parametrize("change", [zeroed_data, zeroed_view, zeroed_storage, zeroed_detached])
@pytest.mark.parametrize("pooled", [False, True])
def test_spikes_that_a_program_changes_are_what_the_next_layer_gets(change, pooled):
    """No version counter moves. Sizes are those that are computed from bits where bits are handed on."""
    torch.manual_seed(0)
    first, second = SpikingLinear(400, 400, weight_scale=3.0), SpikingLinear(400, 400, weight_scale=3.0)
    spikes = first(torch.rand(5, 100, 400))
    assert spikes.any()
    if pooled and change is zeroed_detached:
        pytest.skip("PyTorch refuses to change the output of a custom function in place through a view")
    if pooled:
        spikes = SpikePool2d(1, scale=1.0)(spikes.unflatten(2, (1, 20, 20))).flatten(2)
    change(spikes)
    out = second(spikes)
    assert not out.any()
    out.sum().backward()
    assert not second.weight.grad.any()


@cpu_only
@pytest.mark.parametrize("change", [zeroed_data, zeroed_view])
def test_a_hook_that_changes_spikes_counts(change):
    torch.manual_seed(0)
    net = SpikingSequential(*(SpikingLinear(400, 400, weight_scale=3.0) for _ in range(2)))
    net[0].register_forward_hook(lambda module, given, spikes: change(spikes))
    assert not net(torch.rand(5, 100, 400)).any()


@cpu_only
def test_packed_spikes_are_those_at_the_time_of_packing():
    spikes = (torch.rand(5, 3, 8) < 0.5).float()
    packed, before = PackedSpikes.pack(spikes), spikes.clone()
    spikes.zero_()
    assert torch.equal(packed.dense(), before)


# --- recomputing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "steps", "static"),
    [
        (linear, 1, False),
        (linear, 35, False),
        (strided, 8, True),
        (strided, 9, False),
        (deep("sum"), 5, True),
        (deep("average"), 5, False),
        (deep("max"), 9, True),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_gradients_are_those_of_the_kept_y(eager, build, steps, static):
    results = []
    for recompute in CHOICES:
        net = seeded(build, recompute)
        x = draw_small(1 if static else steps).mul_(2.0).requires_grad_()
        spikes = net(encoding.static(x[0], steps) if static else x)
        backward_of(spikes)
        results.append([spikes.detach(), x.grad, *gradients(net)])
    assert_identical(results)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_tensors(eager, dtype):
    results = []
    for recompute in CHOICES:
        net = seeded(deep("sum"), recompute).to(dtype)
        x = draw_small(9, dtype).mul_(2.0).requires_grad_()
        spikes = net(x)
        backward_of(spikes)
        results.append([spikes.detach(), x.grad, *gradients(net)])
    assert_identical(results)


@pytest.mark.parametrize(("build", "steps"), [(strided, 9), (deep("sum"), 5), (deep("max"), 5)])
def test_channels_last(eager, build, steps):
    results = []
    for recompute in CHOICES:
        net = seeded(build, recompute).to(memory_format=torch.channels_last)
        dense = draw_small(steps).mul_(2.0).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        x = dense.unflatten(0, (steps, 3)).requires_grad_()
        assert not x.is_contiguous()
        spikes = net(x)
        backward_of(spikes)
        results.append([spikes.detach(), x.grad, *gradients(net)])
    assert_identical(results)


@pytest.mark.parametrize("build", [linear, strided], ids=lambda build: build.__name__)
def test_windows_of_a_sequence(eager, build):
    results = []
    for recompute in CHOICES:
        net = seeded(build, recompute).eval()
        states, parts, state = [], [], None
        for part in draw_small(16).mul_(2.0).split([6, 9, 1]):
            spikes, state = net(part, state, return_state=True)
            parts.append(spikes)
            states += [s for layer in state if layer is not None for s in layer]
        assert not any(s.requires_grad for s in states)
        backward_of(torch.cat(parts))
        results.append([torch.cat(parts).detach(), *states, *gradients(net)])
    assert_identical(results)


@pytest.mark.parametrize("build", [linear, strided, deep("sum"), deep("max")], ids=lambda build: build.__name__)
@pytest.mark.parametrize("forward", [torch.bfloat16, None], ids=["cast in forward", "never cast"])
@cpu_only
def test_only_the_autocast_of_forward_counts(build, forward):
    results = []
    for recompute, ambient in ((False, None), (False, torch.float16), (True, None), (True, torch.float16)):
        net = seeded(build, recompute)
        x = draw_small(9).mul_(2.0).requires_grad_()
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
@cpu_only
def test_an_input_is_rebuilt_in_its_own_values_and_memory_order(order, kind, steps):
    current = (2.0 * draw_small(steps).flatten(0, 1)).contiguous(memory_format=order).unflatten(0, (steps, 3))
    x = PackedSpikes.pack(lif(current.requires_grad_()))
    for layer in (SpikePool2d(2, kind), TimeSharedDropout(0.5), SpikePool2d((1, 3), kind)):
        x, _ = layer._run(x, None, False, layer)
        again = x.recipe.dense(x.tensors, x.dtype)
        assert x.dense().any()
        assert torch.equal(again, x.dense())
        assert again.stride() == x.dense().stride()


@cpu_only
def test_a_layer_used_twice_and_a_graph_walked_twice():
    results = []
    for recompute in CHOICES:
        torch.manual_seed(5)
        layer = SpikingLinear(12, 12, bias=True, weight_scale=3.0, recompute=recompute)
        torch.nn.init.constant_(layer.bias, 0.4)
        spikes = layer(layer(draw_small(12).flatten(2)[..., :12] * 2.0))
        for _ in range(2):
            spikes.backward(torch.ones_like(spikes), retain_graph=True)
        results.append([spikes.detach(), *gradients(layer)])
    assert_identical(results)


@pytest.mark.parametrize("trained", ["input", "weight", "bias"])
@cpu_only
def test_only_what_is_asked_for_gets_a_gradient(trained):
    results = []
    for recompute in CHOICES:
        net = seeded(linear, recompute).requires_grad_(False)
        x = draw_small(12).mul_(2.0)
        tensor = x if trained == "input" else getattr(net[0], trained)
        tensor.requires_grad_()
        spikes = net(x)
        backward_of(spikes)
        assert sum(t.grad is not None for t in (x, *net.parameters())) == 1
        results.append([spikes.detach(), tensor.grad])
    assert_identical(results)


@pytest.mark.parametrize("changed", ["weight", "bias", "input"])
@cpu_only
def test_what_changes_in_place_before_backward_is_an_error(changed):
    net = seeded(linear, True)
    x = draw_small(5).mul_(2.0)
    spikes = net(x)
    with torch.no_grad():
        (x if changed == "input" else getattr(net[0], changed)).mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        spikes.sum().backward()


@cpu_only
def test_without_gradients_nothing_is_recorded():
    x = draw_small(12).mul_(2.0)
    net = seeded(deep("sum"), True).eval()
    with torch.no_grad():
        spikes = net(x)
    assert spikes.grad_fn is None
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


@cpu_only
def test_it_costs_one_more_product_per_layer():
    counts = []
    for recompute in CHOICES:
        net = seeded(deep("sum"), recompute)
        spikes = net(draw_small(12))
        with Products() as products:
            backward_of(spikes)
        counts.append(products.count)
    assert counts[1] == counts[0] + 4


@cpu_only
def test_torch_compile_takes_it_as_one_graph():
    results = []
    for compiled in (False, True):
        net = seeded(deep("sum"), True).eval()
        run = torch.compile(net, fullgraph=True, backend="aot_eager") if compiled else net
        spikes = run(draw_small(5).mul_(2.0))
        backward_of(spikes)
        results.append([spikes.detach(), *(weight.grad for weight in net.parameters())])
    assert results[0][0].any()
    for plain, other in zip(*results, strict=True):
        torch.testing.assert_close(other, plain)


@cpu_only
def test_a_trace_fires_the_same_spikes():
    net, x = seeded(deep("sum"), True).eval(), draw_small(5).mul_(2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is on its way out
        traced = torch.jit.trace(net, x, check_trace=False)
    assert net(x.flip(0)).any()
    assert torch.equal(traced(x.flip(0)), net(x.flip(0)))


@cpu_only
def test_an_option_of_whole_networks():
    for recompute in CHOICES:
        net = build_network("4C3-P2-20", (1, 8, 8), 5, recompute=recompute)
        assert [net[k].recompute for k in (0, 2, 3)] == 3 * [recompute]
    with pytest.raises(TypeError, match="recompute must be True or False, got 1"):
        build_network("20", (8,), 5, recompute=1)
