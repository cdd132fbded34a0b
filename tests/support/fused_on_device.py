"""Checks of fused layers that hold on any device with their kernels; see `on_device`.

A fused layer and a composed one sum the same products in another order. So their y differ by rounding, and a neuron
whose membrane comes that near to the threshold may fire in one and not in the other. Such flips are counted, and each
must be explained: over all steps, a change of at most d in y changes a membrane potential by at most tau_mem d.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comparing import to_float64
from judging import draw_gradient
from torch import Tensor
from tssl_triton.reference import lif_forward

from tssl_triton import PackedSpikes, SpikingLinear, SpikingSequential, lif
from tssl_triton.nn import fused
from tssl_triton.operators import Neuron

ROUNDING = {torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}
"""Of y, over its largest value: float32 sums of some thousand terms in two orders; one unit of the last place."""

GRADIENTS = {torch.float32: 1e-4, torch.float16: 2**-9, torch.bfloat16: 2**-6}
"""Norm of a gradient's error over its norm, for neurons that both layers decide alike: y's rounding, times what
kappa = 1/du makes of it, and in 16 bits that of the gradients themselves."""

UNLIKE = {torch.float32: 1e-4, torch.float16: 1e-3, torch.bfloat16: 1e-2}
"""Share of neurons that may be decided unlike: a spike, or the gradient of one."""


def drawn_spikes(layer: Any, features: tuple[int, ...], steps: int, batch: int, rate: float = 0.3) -> PackedSpikes:
    """Packed spikes in the type and on the device of a layer's weights."""
    generator = torch.Generator().manual_seed(steps)
    dense = torch.rand((steps, batch, *features), generator=generator) < rate
    return PackedSpikes.pack(dense.to(layer.weight.device, layer.weight.dtype))


def learnt(layer: Any, spikes: PackedSpikes, grad: Tensor, how: str, recompute: bool = False) -> list[Tensor]:
    """Spikes of the layer, ``fused`` as ``how`` says, and the gradients of its weight and of its input."""
    layer.fused, layer.recompute = how, recompute
    leaf = spikes.dense().detach().requires_grad_()
    out = layer(PackedSpikes(spikes.tensors, spikes.recipe, leaf))
    return [out.detach(), *torch.autograd.grad(out, (layer.weight, leaf), grad)]


def currents(layer: Any, spikes: PackedSpikes) -> tuple[Tensor, Tensor]:
    """y of the fused kernel and y of the composed product."""
    inside = fused.FusedLayer(
        layer._product(), spikes.steps, Neuron(layer.params), layer.weight.dtype, True, False, False
    )
    with torch.no_grad():
        own = inside.outputs(spikes.words, layer.weight, None, None, True, False, False)[2]
        product = layer._product()(spikes.dense(), layer.weight, None)
    return inside.features(own), product


def check_fused_layer(layer: Any, features: tuple[int, ...], steps: int, batch: int, device: Any) -> int:
    """The fused layer agrees with the composed one on the same device; returns the number of flipped neurons."""
    layer = layer.to(device)
    dtype = layer.weight.dtype
    spikes = drawn_spikes(layer, features, steps, batch)
    own, product = currents(layer, spikes)
    largest = float(product.abs().max())
    assert float((own - product).abs().max()) <= ROUNDING[dtype] * largest, "y"

    grad = draw_gradient(product.shape[1:], dtype).to(device).expand(product.shape)
    unlike = decided_unlike(layer, own, product, grad)
    # The kernels may round u itself unlike: what flips by that is only seen when the layer runs.
    for _ in range(2):
        # No gradient enters at those; a neuron's gradient depends on no other neuron of its layer.
        grad = grad.masked_fill(unlike, 0.0)
        got, want = (learnt(layer, spikes, grad, how) for how in ("always", "never"))
        flipped = (got[0] != want[0]).any(0)
        if not (flipped & ~unlike).any():
            break
        unlike |= flipped
    assert want[0].any()
    assert float(unlike.float().mean()) <= UNLIKE[dtype], f"{int(unlike.sum())} neurons decided unlike"
    check_flips(layer, product[:, flipped], own[:, flipped], got[0][:, flipped], want[0][:, flipped])
    for name, one, other in zip(("weight", "input"), got[1:], want[1:], strict=True):
        error = float((one.double() - other.double()).norm() / other.double().norm())
        assert error <= GRADIENTS[dtype], f"gradient of the {name} differs by {error:.1e}"
    return int(flipped.sum())


def decided_unlike(layer: Any, own: Tensor, product: Tensor, grad: Tensor) -> Tensor:
    """Neurons ``(B, *)`` whose spikes, or whose gradients by more than rounding, depend on which y they see."""
    results = []
    for y in (own, product):
        leaf = y.detach().requires_grad_()
        out = lif(leaf, layer.params)
        results.append((out.detach(), torch.autograd.grad(out, leaf, grad)[0].float()))
    (spikes, one), (others, other) = results
    apart = (one - other).abs().amax(0) > 0.05 * other.abs().amax(0)
    return (spikes != others).any(0) | apart


def check_flips(layer: Any, product: Tensor, own: Tensor, got: Tensor, want: Tensor) -> None:
    """Each neuron's ``(T, n)`` first unlike spike is one that the difference in y explains."""
    if not product.numel():
        return
    p = layer.params
    constants = {"tau_mem": p.tau_mem, "tau_syn": p.tau_syn, "threshold": p.threshold, "reset": p.reset}
    membrane = torch.from_numpy(lif_forward(to_float64(product), **constants).membrane)
    first = (got != want).int().argmax(0, keepdim=True).cpu()
    distance = (membrane.gather(0, first)[0] - p.threshold).abs()
    apart = (own.double() - product.double()).abs().amax(0).cpu()
    # And float32's own rounding of u, whose size is about 1.
    bound = p.tau_mem * apart + 1e-5
    assert (distance <= bound).all(), f"a spike flips {float((distance - bound).max()):.1e} beyond what y explains"


def check_recomputing(layer: Any, features: tuple[int, ...], steps: int, batch: int, device: Any) -> None:
    """A fused layer that recomputes gives the spikes and gradients of one that keeps y, bit for bit."""
    layer = layer.to(device)
    spikes = drawn_spikes(layer, features, steps, batch)
    shape = layer._product().shape(spikes.shape, layer.weight.shape)
    grad = draw_gradient(shape, layer.weight.dtype).to(device)
    kept, again = (learnt(layer, spikes, grad, "always", recompute) for recompute in (False, True))
    assert kept[0].any()
    for name, one, other in zip(("spikes", "weight", "input"), kept, again, strict=True):
        assert torch.equal(one, other), name


def check_determinism(
    layer: Any, features: tuple[int, ...], steps: int, batch: int, device: Any, runs: int = 20
) -> None:
    """All runs give the same bits."""
    layer = layer.to(device)
    spikes = drawn_spikes(layer, features, steps, batch)
    shape = layer._product().shape(spikes.shape, layer.weight.shape)
    grad = draw_gradient(shape, layer.weight.dtype).to(device)
    first, *others = (learnt(layer, spikes, grad, "always") for _ in range(runs))
    for other in others:
        assert all(map(torch.equal, other, first))


def check_fused_autocast(device: Any, dtype: torch.dtype, size: int = 256, batch: int = 64) -> None:
    """Under autocast a fused layer computes what one with weights of that type does."""
    torch.manual_seed(0)
    layer = SpikingLinear(size, size, weight_scale=2.0, fused="always").to(device)
    narrow = SpikingLinear(size, size, fused="always").to(device, dtype)
    narrow.load_state_dict(layer.state_dict())
    grad = draw_gradient((5, batch, size), dtype).to(device)
    want = learnt(narrow, drawn_spikes(narrow, (size,), 5, batch), grad, "always")
    spikes = drawn_spikes(layer, (size,), 5, batch)
    with torch.autocast(torch.device(device).type, dtype):
        got = learnt(layer, spikes, grad, "always")
    assert want[0].any()
    assert [result.dtype for result in got] == [dtype, torch.float32, torch.float32]
    assert torch.equal(got[0], want[0])
    for name, one, other in zip(("weight", "input"), got[1:], want[1:], strict=True):
        error = float((one.double() - other.double()).norm() / other.double().norm())
        assert error <= GRADIENTS[dtype], f"gradient of the {name} differs by {error:.1e}"


def check_memory(
    device: Any,
    memory: Callable[[Callable[[], Tensor]], tuple[int, int]],
    size: int = 1024,
    batch: int = 256,
    steps: int = 32,
) -> None:
    """Fused layers hold no more between forward and backward than composed ones, nor more at their peak; with
    ``recompute`` they hold a tenth of it.

    ``memory`` runs a forward pass and the backward pass of its result, and tells the bytes that are allocated between
    the two, and at most, both beyond those before.
    """
    held, peak = {}, {}
    for how, recompute in (("never", False), ("always", False), ("always", True)):
        torch.manual_seed(0)
        options: dict[str, Any] = {"weight_scale": 2.0, "fused": how, "recompute": recompute}
        # The last layer is narrow: its dense result is held in all cases.
        layers = (SpikingLinear(size, size, **options), SpikingLinear(size, size, **options))
        net = SpikingSequential(*layers, SpikingLinear(size, 16, **options)).to(device)
        spikes = drawn_spikes(net[0], (size,), steps, batch)
        held[how, recompute], peak[how, recompute] = memory(lambda net=net, spikes=spikes: net(spikes))
    # An allocator hands out blocks of 512 bytes.
    assert held["always", False] <= held["never", False] + 64 * 512
    assert held["always", True] <= held["never", False] / 10
    assert peak["always", False] <= peak["never", False] + 64 * 512, f"{peak} bytes"
