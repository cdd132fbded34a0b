"""What autograd is asked besides a gradient: a second one, one forwards, none at all, and traces."""

import warnings

import pytest
import torch
from torch import nn

from tssl_triton import (
    LIF,
    PackedSpikes,
    SpikePool2d,
    SpikingConv2d,
    SpikingLinear,
    SpikingRecurrent,
    SpikingSequential,
    TimeSharedDropout,
    build_network,
    encoding,
    lif,
    losses,
    psc,
)
from tssl_triton.nn.products import LINEAR, weighted


def given(*shape, scale=3.0, **options):
    generator = torch.Generator().manual_seed(0)
    return scale * torch.rand(shape, generator=generator, **options)


NETWORKS = {
    "linear": (lambda: SpikingLinear(6, 4), (6,)),
    "recompute": (lambda: SpikingLinear(6, 4, recompute=True), (6,)),
    "learnt": (lambda: SpikingLinear(6, 4, learn=("tau_mem",)), (6,)),
    "recurrent": (lambda: SpikingRecurrent(6, 4), (6,)),
    "dropout": (lambda: SpikingSequential(SpikingLinear(6, 9), TimeSharedDropout(0.5), SpikingLinear(9, 4)), (6,)),
    "sum": (lambda: build_network("4C3-P2-7", (1, 8, 8), 5), (1, 8, 8)),
    "max": (lambda: build_network("4C3-P2-7", (1, 8, 8), 5, pool="max"), (1, 8, 8)),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    make, features = NETWORKS[request.param]
    torch.manual_seed(0)
    return make(), given(5, 2, *features)


# --- inference mode ---------------------------------------------------------------------------------------------


def test_inference_mode(network):
    net, x = network
    with torch.no_grad():
        expected = net.eval()(x)
    assert expected.any()
    with torch.inference_mode():
        assert torch.equal(net(x), expected)
        assert torch.equal(PackedSpikes.pack(expected).dense(), expected)
        made_here = x.clone()
    with torch.no_grad():
        assert torch.equal(net(made_here), expected)


def test_inference_mode_with_a_static_input():
    net = build_network("4C3-P2-7", (1, 8, 8), 5)
    image = encoding.static(given(2, 1, 8, 8), 5)
    with torch.inference_mode():
        spikes = net(image)
    with torch.no_grad():
        assert torch.equal(spikes, net(image))


# --- second derivatives -----------------------------------------------------------------------------------------


def test_a_second_derivative_is_an_error_and_not_zero(network):
    net, x = network
    x.requires_grad_()
    (grad,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    assert grad.any()
    with pytest.raises(RuntimeError):
        grad.square().sum().backward()


@pytest.mark.parametrize("recompute", [False, True])
def test_a_penalty_on_a_gradient_is_an_error_and_not_without_effect(recompute):
    layer = SpikingLinear(6, 4, recompute=recompute)
    spikes = layer(given(5, 2, 6))
    (grad,) = torch.autograd.grad(spikes.sum(), layer.weight, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(spikes.sum() + grad.square().sum(), layer.weight)


def test_a_gradient_with_a_graph_is_the_same(network):
    net, x = network
    x.requires_grad_()
    torch.manual_seed(1)
    plain = torch.autograd.grad(net(x).sum(), [x, *net.parameters()])
    torch.manual_seed(1)
    with_graph = torch.autograd.grad(net(x).sum(), [x, *net.parameters()], create_graph=True)
    for one, other in zip(plain, with_graph, strict=True):
        assert torch.equal(one, other)


def test_a_product_with_packed_spikes_has_no_second_derivative():
    first, second = SpikingLinear(6, 5), SpikingLinear(5, 4)
    spikes = PackedSpikes.pack(first(given(5, 2, 6)))
    y = weighted(LINEAR, spikes, second.weight, None)
    (grad,) = torch.autograd.grad(y.square().sum(), second.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="have a first derivative only"):
        torch.autograd.grad(grad.sum(), first.weight)


def test_a_product_with_other_input_has_one():
    layer = SpikingLinear(6, 4).double()
    x = given(5, 2, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: layer.weighted(x).square(), (x,))


@pytest.mark.parametrize("channels", [2, 5])
def test_a_convolution_of_other_input_has_one(channels):
    layer = SpikingConv2d(channels, 3, 3, padding=1, bias=True).double()
    x = given(1, 2, channels, 4, 4, dtype=torch.float64).requires_grad_()
    given_all = x, layer.weight, layer.bias
    assert torch.autograd.gradgradcheck(lambda *given: layer._product()(*given), given_all)


@pytest.mark.parametrize("kind", ["sum", "average", "max"])
def test_pooling_has_second_derivatives(kind):
    pool = SpikePool2d((2, 3), kind)
    x = given(2, 2, 2, 5, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pool(x).square(), (x,))
    assert torch.autograd.gradgradcheck(lambda x: pool(x).square(), (x,))


def test_the_filter_has_one():
    x = given(4, 2, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: psc(x, 3.0).square(), (x,))


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize(
    "loss", [lambda *given: losses.van_rossum_loss(*given[:2], 3.0, given[2]), losses.spike_train_loss]
)
def test_losses_have_one_too(loss, reduction):
    both = [x.clone().requires_grad_() for x in given(2, 4, 2, 3, dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda *x: loss(*x, reduction), both)
    assert torch.autograd.gradgradcheck(lambda *x: loss(*x, reduction), both)


def test_a_loss_and_its_gradient_in_one_sum():
    spikes, target = given(2, 4, 2, 3, dtype=torch.float64)
    found = []
    for loss in (
        lambda x: losses.van_rossum_loss(x, target, 3.0),
        lambda x: 0.5 * psc(x - target, 3.0).square().sum(),
    ):
        x = spikes.clone().requires_grad_()
        value = loss(x)
        (grad,) = torch.autograd.grad(value, x, create_graph=True)
        (value + grad.square().sum()).backward()
        found.append(x.grad)
    torch.testing.assert_close(*found)


# --- forward mode -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [lif, lambda x: psc(x, 3.0), lambda x: losses.van_rossum_loss(x, x.detach(), 3.0)])
def test_forward_mode_is_an_error_and_not_zero(function):
    x = given(5, 2, 6)
    with pytest.raises(NotImplementedError, match="not differentiated in forward mode"):
        torch.func.jvp(function, (x,), (x,))
    for mode in (torch.no_grad, torch.enable_grad):
        with mode(), torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, x)
            with pytest.raises(NotImplementedError, match="not differentiated in forward mode"):
                function(dual)
            assert lif(x).any(), "a tensor without tangent passes"


# --- traces -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grad", [False, True])
def test_a_traced_network_fires_the_same_spikes(network, grad):
    net, x = network
    net.eval()
    with warnings.catch_warnings(), torch.set_grad_enabled(grad):
        warnings.simplefilter("ignore")  # tracing is on its way out, and says what it takes for constant
        traced = torch.jit.trace(net, x, check_trace=False)
        other = x.flip(0) * 0.7
        assert net(other).any()
        assert torch.equal(traced(other), net(other))


# --- states of layers that are not of this package --------------------------------------------------------------


class Own(nn.Module):
    """A spiking layer as the tutorial writes it."""

    def __init__(self):
        super().__init__()
        self.product = nn.Linear(6, 6)

    def forward(self, x, state=None, return_state=False):
        return lif(3 * self.product(x), state=state, return_state=return_state)


def in_windows(net, x, length):
    parts, state = [], None
    for window in x.split(length):
        spikes, state = net(window, state, return_state=True)
        parts.append(spikes)
    return torch.cat(parts)


def test_a_layer_of_one_s_own_has_its_state():
    torch.manual_seed(1)
    net, x = SpikingSequential(Own(), SpikingLinear(6, 5)), given(20, 2, 6)
    assert net(x).any()
    assert torch.equal(in_windows(net, x, 5), net(x))


def test_so_has_a_compiled_one():
    torch.manual_seed(1)
    net, x = SpikingSequential(SpikingLinear(6, 6), SpikingLinear(6, 5)), given(20, 2, 6)
    net[0] = torch.compile(net[0], backend="eager")
    assert net(x).any()
    assert torch.equal(in_windows(net, x, 5), net(x))


def test_neurons_without_a_state_are_an_error_where_states_are_asked_for():
    net, x = SpikingSequential(nn.Sequential(LIF()), nn.Identity()), given(5, 2, 6)
    assert net(x).any()
    with pytest.raises(TypeError, match="layer 0, Sequential, holds neurons but its forward takes no state"):
        net(x, return_state=True)
    assert SpikingSequential(LIF(), nn.Identity())(x, return_state=True)[1][1] is None


# --- who else is to see a pooling -------------------------------------------------------------------------------


def pooled_network():
    return SpikingSequential(SpikingConv2d(1, 3, 3), SpikePool2d(2))


def test_a_forward_put_in_place_of_a_pooling_s():
    net, x = pooled_network(), given(5, 2, 1, 8, 8)
    expected = net(x)
    original = net[1].forward
    net[1].forward = lambda x: 2 * original(x)
    assert torch.equal(net(x), 2 * expected)


def test_a_forward_put_in_place_of_a_layer_s():
    net, x = pooled_network(), given(5, 2, 1, 8, 8)
    expected = net(x)
    original = net[0].forward
    net[0].forward = lambda x, state=None, return_state=False: original(x, state, return_state)
    assert torch.equal(net(x), expected)


def test_a_hook_on_all_modules():
    net, x, seen = pooled_network(), given(5, 2, 1, 8, 8), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module)))
    try:
        net(x)
    finally:
        handle.remove()
    assert seen == [SpikingConv2d, SpikePool2d, SpikingSequential]
