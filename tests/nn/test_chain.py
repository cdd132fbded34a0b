"""Layers as one node on autograd's graph: the numbers of layers one by one, and what happens to what a node keeps."""

import os
from contextlib import nullcontext

import pytest
import torch
from recomputing import assert_identical, backward_of, gradients
from torch.utils.checkpoint import checkpoint

from tssl_triton import (
    STBP,
    LIFParameters,
    SpikePool2d,
    SpikingConv2d,
    SpikingLinear,
    SpikingRecurrent,
    SpikingSequential,
    TimeSharedDropout,
    encoding,
)
from tssl_triton.nn import chain as _chain
from tssl_triton.nn import products as _weighted
from tssl_triton.nn import weighted as modules

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="this process runs the Triton kernels instead"
)


def network(recompute=False, hooked=False):
    """With a layer of each kind, and a pooling that can be taken with the neurons; hooked, each layer is its own."""
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
    """The network with a hook on each layer, which then is called on its own."""
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


@pytest.fixture
def chains(monkeypatch):
    """How many layers each chain has had."""
    counts = []
    inner = _chain.run
    monkeypatch.setattr(_chain, "run", lambda chain, *given: counts.append(len(chain.links)) or inner(chain, *given))
    return counts


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("steps", "static"), [(5, False), (5, True), (19, False), (19, True)])
def test_a_chain_has_the_numbers_of_its_layers(compiled, chains, steps, static, recompute):
    x = draw(1 if static else steps)
    assert_identical([results(network(recompute, hooked), x, steps) for hooked in (False, True)])
    assert chains == [4, 1, 1, 1, 1]


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


@pytest.mark.parametrize("changed", CHANGES)
def test_a_chain_that_is_remembered_follows_its_layers(compiled, changed):
    """What layers do on inputs of a size is found out once, and again when a setting of theirs is another one."""
    x, runs = draw(5), []
    for before in (False, True):
        modules._chains.clear()
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
    """They have the same shape, but a fully connected layer has the second one with its features in one axis."""
    modules._chains.clear()
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


def test_chains_are_forgotten_before_they_are_too_many(compiled, monkeypatch):
    monkeypatch.setattr(modules, "MOST_CHAINS", 2)
    monkeypatch.setattr(modules, "_chains", {})
    net, counts = network(), []
    for steps in (1, 2, 3, 2):
        net(draw(steps))
        counts.append(len(modules._chains))
    assert counts == [1, 2, 1, 2]


def dropping(hooked, training=True):
    """Dropout behind layers of each kind, behind a pooling, and at the end; the same masks each time."""
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
def test_dropout_in_a_chain(compiled, chains, steps, training, channels_last):
    runs, order = [], torch.channels_last if channels_last else torch.contiguous_format
    for hooked in (False, True):
        x = draw(steps).flatten(0, 1).contiguous(memory_format=order).unflatten(0, (steps, 3))
        runs.append(results(dropping(hooked, training).to(memory_format=order), x, steps))
    assert_identical(runs)
    assert chains == [4, 1, 1, 1, 1]
    assert (runs[0][0] > 1).any() == training


def test_the_graph_of_dropped_spikes_can_be_walked_twice(compiled):
    net = dropping(False)
    spikes = net(draw(5))
    grad = torch.randn_like(spikes)
    first, second = (torch.autograd.grad(spikes, list(net.parameters()), grad, retain_graph=True) for _ in range(2))
    assert_identical([[spikes.detach(), *first], [spikes.detach(), *second]])


def test_states_pass_through_a_chain(compiled):
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
        # Hooks on saved tensors have the gradient worked out by the operator.
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x) if carry else nullcontext():
            found = net(draw(5), state, return_state=carry)
        spikes = found[0] if carry else found
        backward_of(spikes)
        runs.append([spikes.detach(), *gradients(net)])
    assert_identical(runs)
    assert not torch.equal(runs[0][0], network()(draw(5)))


def test_without_gradients_too(compiled, chains):
    with torch.no_grad():
        spikes = network()(draw(5))
    assert chains == [4]
    assert spikes.grad_fn is None
    assert torch.equal(spikes, network()(draw(5)))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([SpikingLinear(8, 6), SpikingLinear(6, 5), SpikingLinear(5, 4)], [3]),
        ([SpikingLinear(8, 6), SpikingLinear(6, 5, learn=("threshold",)), SpikingLinear(5, 4)], [1, 1]),
        ([SpikingLinear(8, 6), SpikingLinear(6, 5), TimeSharedDropout(), SpikingLinear(5, 4)], [3]),
        ([SpikingLinear(8, 6), SpikingLinear(6, 5), *[TimeSharedDropout()] * 2, SpikingLinear(5, 4)], [2, 1]),
        ([SpikingLinear(8, 6), SpikingRecurrent(6, 5), SpikingLinear(5, 4), SpikingLinear(4, 4)], [1, 2]),
        ([SpikingSequential(SpikingLinear(8, 6), SpikingLinear(6, 5)), SpikingLinear(5, 4)], [2, 1]),
    ],
)
def test_what_is_a_chain(compiled, chains, layers, expected):
    SpikingSequential(*layers)(torch.rand(3, 2, 8))
    assert chains == expected


def test_what_a_pooling_ends_a_chain(compiled, chains):
    x = torch.rand(3, 2, 1, 12, 12)
    conv = {"padding": 1, "weight_scale": 3.0}
    for kind, expected in (("max", [1, 1]), ("average", [2])):
        chains.clear()
        SpikingSequential(SpikingConv2d(1, 2, 3, **conv), SpikePool2d(2, kind), SpikingConv2d(2, 2, 3, **conv))(x)
        assert chains == expected
    chains.clear()
    net = SpikingSequential(SpikingConv2d(1, 2, 3, **conv), SpikePool2d(2), SpikePool2d(3), SpikingLinear(8, 2))
    assert net(x).shape == (3, 2, 2)
    assert chains == [1, 1]


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
def test_who_walks_back_twice_has_the_same_gradient_twice(compiled, steps, recompute):
    net, x = network(recompute), draw(steps).requires_grad_()
    spikes = net(x)
    wanted = [x, *net.parameters()]
    grad = torch.randn_like(spikes)
    first, second = (torch.autograd.grad(spikes, wanted, grad, retain_graph=again) for again in (True, False))
    assert_identical([[spikes.detach(), *first], [spikes.detach(), *second]])
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(spikes, wanted, grad)


def test_what_is_private_is_gone_after_backward(compiled):
    net = network()
    spikes = net(draw(5))
    node = spikes.grad_fn
    assert [own[0].shape[2:].numel() for own in node.own] == [256, 45, 20, 6]
    spikes.sum().backward(retain_graph=True)
    assert node.own == [None] * 4


def test_hooks_on_saved_tensors_see_y_and_nobody_overwrites_it(compiled):
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


@pytest.mark.parametrize("frozen", [1, 2, 3])
def test_layers_below_the_first_that_learns_are_not_walked_back(compiled, monkeypatch, frozen):
    net, calls = network(), []
    inner = _chain._errors
    monkeypatch.setattr(_chain, "_errors", lambda *given: calls.append(given[2]) or inner(*given))
    layers = [net[0], net[2], net[3], net[4]]
    for layer in layers[:frozen]:
        layer.requires_grad_(False)
    backward_of(net(draw(5)))
    assert calls == [3, 2, 1, 0][: 4 - frozen]
    assert all(layer.weight.grad is None for layer in layers[:frozen])
    whole = network()
    backward_of(whole(draw(5)))
    for layer, same in zip(layers[frozen:], [whole[0], whole[2], whole[3], whole[4]][frozen:], strict=True):
        assert torch.equal(layer.weight.grad, same.weight.grad)


def test_a_gradient_is_handed_over_and_not_copied(compiled, monkeypatch):
    made = []
    for kind in (_weighted.Linear, _weighted.Conv2d):

        def noting(*given, inner=kind.gradients):
            found = inner(*given)
            made.extend(each.data_ptr() for each in found if each is not None)
            return found

        monkeypatch.setattr(kind, "gradients", noting)
    net = network()
    backward_of(net(draw(5)))
    assert all(weight.grad.data_ptr() in made for weight in net.parameters())


def test_peak_memory_of_a_step():
    """Of four layers of 200 neurons: the gradient of y is in its place, and no dense spikes wait for backward."""
    import benches  # noqa: F401 - finds bench

    from bench.common.peak import peak_memory

    x = torch.rand(8, 64, 200)
    nets = [SpikingSequential(*(SpikingLinear(200, 200) for _ in range(4))) for _ in range(2)]
    apart(nets[1])

    def step(net):
        net(x).sum().backward()
        net.zero_grad(set_to_none=True)

    rows, weights = 4 * 8 * 64 * 200, 4 * 4 * 200 * 200
    chained, separate = (peak_memory(lambda net=net: step(net), x.device) for net in nets)
    # Of the last layer that is walked back y and the gradient of its spikes; of the others nothing.
    assert chained <= 4.5 * rows + weights
    assert separate >= chained
