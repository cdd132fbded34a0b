"""Fused layers in networks: the same spikes and gradients as composed ones, and nothing dense between them.

Under the interpreter the kernels run; on a plain CPU the same calls compose the layer, and must agree all the same.
"""

import os

import numpy as np
import pytest
import torch
from comparing import assert_close, relative_error
from tssl_triton.kernels.layout import checkpoint_rows

from tssl_triton import (
    LIFParameters,
    LIFState,
    PackedSpikes,
    SpikePool2d,
    SpikingConv2d,
    SpikingLinear,
    SpikingSequential,
    TimeSharedDropout,
    encoding,
    losses,
    pack_spikes,
    reference,
    spike_conv2d,
    spike_linear,
)
from tssl_triton.nn import prefers_fused

pytestmark = [pytest.mark.implementation, pytest.mark.usefixtures("poisoned", "eager")]

KERNELS = os.environ.get("TRITON_INTERPRET") == "1"
T, B = 9, 3


def network(fused, recompute=False, bias=True):
    """Two convolutions and two full connections; every layer but the first has spikes as its input."""
    torch.manual_seed(0)
    options = {"fused": fused, "recompute": recompute, "bias": bias}
    net = SpikingSequential(
        SpikingConv2d(1, 4, 3, weight_scale=3.0, **options),
        SpikingConv2d(4, 6, 3, padding=1, weight_scale=2.0, **options),
        SpikingLinear(6 * 9, 9, weight_scale=2.0, **options),
        SpikingLinear(9, 5, weight_scale=2.0, **options),
    )
    for layer in net:
        if bias:
            torch.nn.init.normal_(layer.bias, std=0.1)
    return net


def images(requires_grad=False):
    values = torch.randn(B, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    return values.requires_grad_(requires_grad)


def train(net, x):
    spikes = net(encoding.static(x, T))
    weight = torch.randn(spikes.shape, generator=torch.Generator().manual_seed(2))
    (spikes * weight).sum().backward()
    return spikes.detach(), [p.grad for p in net.parameters()]


def test_spikes_and_gradients_are_those_of_composed_layers():
    x, again = images(True), images(True)
    spikes, grads = train(network("always"), x)
    want, want_grads = train(network("never"), again)
    assert want.any()
    # float32 sums in another order: a membrane within 1e-6 of the threshold could fire or not. None is, here.
    assert (spikes != want).sum() == 0
    for got, wanted in zip([*grads, x.grad], [*want_grads, again.grad], strict=True):
        assert relative_error(got, wanted) < 2e-6


def test_against_the_reference_in_float64():
    net = network("always", bias=False)
    x = torch.randn(T, B, 1, 5, 5, generator=torch.Generator().manual_seed(3))
    target = (torch.rand(T, B, 5, generator=torch.Generator().manual_seed(4)) < 0.4).float()
    loss = losses.van_rossum_loss(net(x), target, tau_syn=3.0, reduction="sum")
    loss.backward()
    weights = [p.detach().double().numpy() for p in net.parameters()]
    layers = [
        reference.Conv2d(weights[0]),
        reference.Conv2d(weights[1], padding=1),
        reference.Linear(weights[2]),
        reference.Linear(weights[3]),
    ]
    p = LIFParameters()
    want = reference.run_network(
        layers, x.double().numpy(), target.numpy(), tau_mem=p.tau_mem, tau_syn=p.tau_syn, threshold=p.threshold
    )
    assert want.spikes.any()
    assert loss.item() == pytest.approx(want.loss, rel=1e-6)
    for parameter, wanted in zip(net.parameters(), want.weight_grads, strict=True):
        assert np.linalg.norm(parameter.grad.numpy() - wanted) <= 1e-5 * np.linalg.norm(wanted)


def test_recomputing_gives_the_same_gradients_bit_for_bit():
    spikes, grads = train(network("always"), images())
    again, regrads = train(network("always", recompute=True), images())
    assert torch.equal(spikes, again)
    for kept, made_again in zip(grads, regrads, strict=True):
        assert torch.equal(kept, made_again)


def test_recomputing_starts_from_the_state_that_forward_started_from():
    grads = []
    for recompute in (False, True):
        torch.manual_seed(0)
        layer = SpikingLinear(6, 5, weight_scale=3.0, fused="always", recompute=recompute)
        dense = (torch.rand(T, B, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()
        state = LIFState(*torch.rand(3, B, 5, generator=torch.Generator().manual_seed(1)))
        spikes = layer(PackedSpikes.pack(dense), state)
        (spikes * torch.arange(5.0)).sum().backward()
        grads.append(layer.weight.grad)
    assert grads[0].any()
    assert torch.equal(*grads)


def test_windows_of_a_network():
    net = network("always")
    x = torch.randn(12, 1, 1, 5, 5, generator=torch.Generator().manual_seed(5))
    whole = net(x)
    assert whole.any()
    state, parts = None, []
    for part in x.split([3, 8, 1]):
        spikes, state = net(part, state, return_state=True)
        parts.append(spikes)
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.skipif(not KERNELS, reason="a plain CPU composes the layers")
def test_what_passes_between_fused_layers_has_no_memory(monkeypatch):
    between = []
    weighted = SpikingLinear.__mro__[1]  # whose forward it has: one of its own would be handed tensors
    run = weighted._run

    def watched(self, x, *rest, **options):
        if isinstance(self, SpikingLinear):
            between.append(x)
        return run(self, x, *rest, **options)

    monkeypatch.setattr(weighted, "_run", watched)
    net = network("always")
    learning = net(encoding.static(images(), T))
    with torch.no_grad():
        assert torch.equal(net(encoding.static(images(), T)), learning)
    assert [type(x) for x in between[2:]] == [PackedSpikes, PackedSpikes]
    del between[2:]
    assert [type(x) for x in between] == [PackedSpikes, PackedSpikes]
    assert all(x.link.untyped_storage().nbytes() == x.link.element_size() for x in between)
    assert [tuple(x.shape) for x in between] == [(T, B, 6, 3, 3), (T, B, 9)]


def bytes_kept(net, x):
    """Bytes that autograd keeps besides weights, input and the checkpoints of long runs, which are ``(rows, N)``."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = net(x)
    assert out.requires_grad
    for given in (x, *net.parameters()):
        kept.pop(given.untyped_storage().data_ptr(), None)
    checkpoints = [t for t in kept.values() if t.dtype == torch.float32 and len(t) == checkpoint_rows(len(x)) > 0]
    assert not checkpoints or len(x) > 8
    return sum(t.untyped_storage().nbytes() for t in kept.values() if not any(t is c for c in checkpoints))


@pytest.mark.parametrize(("recompute", "bound"), [(False, 4.125), (True, 0.125)])
@pytest.mark.parametrize("steps", [8, 32])
def test_bytes_kept_for_backward(steps, recompute, bound):
    torch.manual_seed(0)
    options = {"fused": "always", "recompute": recompute, "weight_scale": 3.0}
    net = SpikingSequential(*(SpikingLinear(16, 16, **options) for _ in range(3)))
    x = torch.randn(steps, 4, 16)
    assert bytes_kept(net, x) / (3 * steps * 4 * 16) <= bound


def test_pooling_and_dropout_between_layers_take_dense_spikes():
    results = []
    for fused in ("always", "never"):
        torch.manual_seed(0)
        net = SpikingSequential(
            SpikingConv2d(1, 4, 3, weight_scale=3.0, fused=fused),
            SpikingConv2d(4, 4, 3, padding=1, weight_scale=3.0, fused=fused),
            SpikePool2d(2),
            TimeSharedDropout(0.5),
            SpikingLinear(16, 5, weight_scale=3.0, fused=fused),
        )
        x = torch.randn(5, 2, 1, 6, 6)
        net(x).sum().backward()
        assert all(p.grad.isfinite().all() for p in net.parameters())
        # Dropout draws its mask in memory order, which differs: only without it are the numbers the same.
        net.zero_grad()
        net.eval()
        out = net(x)
        out.sum().backward()
        results.append([out.detach(), *(p.grad for p in net.parameters())])
    assert results[1][0].any()
    for got, want in zip(*results, strict=True):
        assert_close("fused against composed", got, want, rtol=1e-5, atol=1e-5)


def test_autocast_and_inference():
    net = network("always")
    with torch.autocast("cpu", torch.bfloat16):
        spikes = net(torch.randn(5, 2, 1, 5, 5, generator=torch.Generator().manual_seed(1)))
    assert spikes.dtype == torch.bfloat16
    spikes.float().sum().backward()
    for weight in net.parameters():
        assert weight.grad.dtype == torch.float32
        assert weight.grad.isfinite().all()
    with torch.no_grad():
        assert not net(encoding.static(images(), T)).requires_grad


def test_functions_on_packed_spikes():
    generator = torch.Generator().manual_seed(0)
    dense = (torch.rand(T, B, 3, 4, 4, generator=generator) < 0.4).float().requires_grad_()
    kernel = torch.randn(5, 3, 3, 3, generator=generator, requires_grad=True)
    weight = (torch.randn(7, 5 * 8, generator=generator) / 2).requires_grad_()
    spikes = PackedSpikes.pack(dense)
    assert torch.equal(spikes.words, pack_spikes(dense, torch.int16))
    hidden, state = spike_conv2d(spikes, kernel, padding=(1, 0), return_state=True)
    out = spike_linear(hidden, weight)
    assert (hidden.shape, out.shape, out.steps) == ((T, B, 5, 4, 2), (T, B, 7), T)
    assert state.membrane.shape == (B, 5, 4, 2)
    (out.dense() ** 2).sum().backward()
    assert all(x.grad.any() for x in (dense, kernel, weight))


def test_functions_on_packed_spikes_agree_with_layers():
    layer = SpikingLinear(6, 5, weight_scale=3.0, bias=True)
    dense = (torch.rand(T, B, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    out = spike_linear(PackedSpikes.pack(dense), layer.weight, layer.bias, layer.params)
    assert torch.equal(out.dense(), layer(dense))
    assert torch.equal(layer(PackedSpikes.pack(dense)), layer(dense))


def test_what_is_packed_counts_as_0_and_1():
    values = torch.tensor([0.0, 0.5, -2.0, 1.0]).expand(5, 2, 4).contiguous().requires_grad_()
    packed = PackedSpikes.pack(values)
    expected = (values != 0).float()
    assert torch.equal(packed.dense(), expected)
    layer = SpikingLinear(4, 6, weight_scale=3.0, fused="always")
    spikes = layer(packed)
    assert spikes.any()
    assert torch.equal(spikes, layer(PackedSpikes.pack(expected)))
    (grad,) = torch.autograd.grad(spikes.sum(), values)
    dense = expected.requires_grad_()
    (other,) = torch.autograd.grad(layer(PackedSpikes.pack(dense)).sum(), dense)
    assert other.any()
    assert_close("gradient", grad, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_second_derivative_is_an_error(recompute):
    spikes = SpikingLinear(6, 8)(5 * torch.rand(T, B, 6, generator=torch.Generator().manual_seed(1)))
    layer = SpikingLinear(8, 4, weight_scale=3.0, fused="always", recompute=recompute)
    (grad,) = torch.autograd.grad(layer(PackedSpikes.pack(spikes)).sum(), layer.weight, create_graph=True)
    assert grad.any()
    with pytest.raises(RuntimeError):
        grad.square().sum().backward()


def test_weights_changed_before_backward_are_an_error():
    net = network("always", recompute=True)
    out = net(encoding.static(images(), T)).sum()
    with torch.no_grad():
        net[2].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


def test_messages():
    dense = (torch.rand(T, B, 6) < 0.5).float()
    spikes, weight = PackedSpikes.pack(dense), torch.randn(5, 6)
    with pytest.raises(TypeError, match=r"spikes must be PackedSpikes, got Tensor; pack a spike train"):
        spike_linear(dense, weight)
    with pytest.raises(ValueError, match=r"spikes must have the 7 features of weight's second axis, got 6"):
        spike_linear(spikes, torch.randn(5, 7))
    with pytest.raises(ValueError, match=r"weight must be \(out, in\), got shape \(5, 6, 1, 1\)"):
        spike_linear(spikes, weight[..., None, None])
    with pytest.raises(TypeError, match=r"weight must be torch.float32 as the spikes are"):
        spike_linear(spikes, weight.half())
    with pytest.raises(ValueError, match=r"bias must be a tensor \(5,\) or None, got \(6,\)"):
        spike_linear(spikes, weight, torch.zeros(6))
    with pytest.raises(ValueError, match=r"state.current must have shape \(3, 5\)"):
        spike_linear(spikes, weight, state=(torch.zeros(2), torch.zeros(2), torch.zeros(2)))
    with pytest.raises(TypeError, match="params must be LIFParameters"):
        spike_linear(spikes, weight, params=3)
    maps = PackedSpikes.pack((torch.rand(T, B, 3, 4, 4) < 0.5).float())
    with pytest.raises(ValueError, match=r"spikes must be \(T, B, 2, H, W\), got shape"):
        spike_conv2d(maps, torch.randn(5, 2, 3, 3))
    with pytest.raises(ValueError, match=r"weight's 5x5 kernel does not fit images of 4x4 with padding \(0, 0\)"):
        spike_conv2d(maps, torch.randn(5, 3, 5, 5))
    with pytest.raises(ValueError, match="stride must be an integer >= 1, got 0"):
        spike_conv2d(maps, torch.randn(5, 3, 3, 3), stride=0)
    with pytest.raises(ValueError, match="fused must be one of 'auto', 'always', 'never', got 'yes'"):
        SpikingLinear(6, 5, fused="yes")
    with pytest.raises(ValueError, match=r"x must be \(T, B, \*\) with 7 features in all, got 6"):
        SpikingLinear(7, 5, fused="always")(spikes)


def test_where_the_kernel_is_preferred():
    half = torch.bfloat16
    assert prefers_fused("cuda", half, pixels=50 * 16 * 16, neurons=512, inputs=256)
    assert prefers_fused("cuda", torch.float16, pixels=64 * 128, neurons=64, inputs=64)
    assert not prefers_fused("cuda", torch.float32, pixels=50 * 16 * 16, neurons=512, inputs=256)
    assert not prefers_fused("cuda", half, pixels=100, neurons=400, inputs=256)  # 14 tiles
    assert not prefers_fused("cuda", half, pixels=50 * 16 * 16, neurons=512, inputs=256 * 9)
    assert not prefers_fused("cuda", half, pixels=50 * 16 * 16, neurons=512, inputs=9)
    assert not prefers_fused("cpu", half, pixels=50 * 16 * 16, neurons=512, inputs=256)


def test_a_convolution_after_a_fully_connected_layer_is_an_error():
    net = SpikingSequential(SpikingLinear(6, 8), SpikingConv2d(8, 4, 3, fused="always"))
    with pytest.raises(ValueError, match=r"x must be \(T, B, 8, H, W\), got shape \(9, 3, 8\)"):
        net(torch.rand(T, B, 6))
