"""Checks that hold on any device.

`tests/gpu` makes them at production sizes; `tests/gpu/test_device_checks.py` makes them at tiny ones on the CPU, so
that
their own logic is tested where there is no GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparing import assert_close, relative_error
from judging import Answer, assert_agrees, draw_current, draw_gradient, judge
from torch import Tensor

from tssl_triton import (
    LIFState,
    PackedSpikes,
    SpikePool2d,
    SpikingConv2d,
    SpikingLinear,
    SpikingSequential,
    encoding,
    lif,
    pack_spikes,
    psc,
    unpack_spikes,
)
from tssl_triton.nn import LIF
from tssl_triton.parameters import LIFParameters

GOLDEN = Path(__file__).parents[1] / "golden"
KERNELS = (
    "lif_forward_kernel",
    "lif_backward_kernel",
    "surrogate_backward_kernel",
    "spike_weighted_kernel",
    "weight_gradient_kernel",
    "psc_kernel",
    "unpack_kernel",
)
PERIOD = 4099
"""Neurons before they repeat: a prime, so that no block of a kernel sees them at the same place twice."""


def check_repeated_neurons(
    device: torch.device | str,
    steps: int,
    neurons: int,
    dtype: torch.dtype = torch.float32,
    params: LIFParameters = LIFParameters(),
    period: int = PERIOD,
    sample: int = 64,
    unclear: float = 0.1,
) -> None:
    """A layer of ``neurons`` that repeat each ``period``: a random sample is judged by the reference, and every other
    neuron must equal the one that it repeats, bit for bit. So a wrong offset anywhere shows.

    At most the share ``unclear`` of the sample may be too near a threshold to be judged.
    """
    period = min(period, neurons)
    y = repeated(draw_current((steps, period), dtype).to(device), neurons)
    grad = repeated(draw_gradient((steps, period), dtype).to(device), neurons)
    leaf = y[:, None].requires_grad_()
    spikes, state = lif(leaf, params, return_state=True)
    (grad_y,) = torch.autograd.grad(spikes, leaf, grad[:, None])

    for name, rows in (("spikes", spikes.detach()), ("gradient", grad_y), *zip(LIFState._fields, state, strict=True)):
        check_repeats(name, rows.reshape(-1, neurons), period)
    chosen = torch.randperm(period, generator=torch.Generator().manual_seed(steps))[:sample].to(device)

    def picked(x: Tensor) -> Tensor:
        return x[..., chosen].cpu()

    answer = Answer(picked(spikes.detach()), picked(grad_y), LIFState(*map(picked, state)))
    assert_agrees(answer, judge(picked(y[:, None].detach()), picked(grad[:, None]), params), dtype, unclear)


def repeated(block: Tensor, neurons: int) -> Tensor:
    """``(T, neurons)`` of which neuron n is column ``n % period`` of ``block (T, period)``."""
    steps, period = block.shape
    result = torch.empty((steps, neurons), dtype=block.dtype, device=block.device)
    whole = neurons // period * period
    result[:, :whole].unflatten(1, (-1, period)).copy_(block[:, None])
    result[:, whole:] = block[:, : neurons - whole]
    return result


def check_repeats(name: str, rows: Tensor, period: int) -> None:
    """Fail unless ``rows (T, N)`` repeat each ``period`` columns; a row at a time, to stay within memory."""
    neurons = rows.shape[1]
    whole = neurons // period * period
    for t, row in enumerate(rows):
        first = row[:period]
        assert torch.equal(row[:whole].view(-1, period), first.expand(whole // period, period)), f"{name} at step {t}"
        assert torch.equal(row[whole:], first[: neurons - whole]), f"{name} at step {t}, last neurons"


def check_golden_network(path: Path, device: torch.device | str) -> None:
    """A whole network against the numbers of the authors' released program, which are float32's."""
    case = np.load(path)
    params = LIFParameters(float(case["tau_m"]), float(case["tau_s"]), float(case["threshold"]))
    layers: list[torch.nn.Module] = []
    weighted = 0
    tokens = str(case["layers"]).split("-")
    # A network without convolutions begins with the number of its inputs.
    for token in tokens[1:] if tokens[0].isdigit() else tokens:
        if token.startswith("P"):
            layers.append(SpikePool2d(int(token[1:]), scale=float(case["pool_weight"])))
            continue
        weight = torch.from_numpy(case[f"weight_{weighted}"])
        out, into, *kernel = weight.shape
        layer = SpikingConv2d(into, out, tuple(kernel), params) if kernel else SpikingLinear(into, out, params)
        layer.weight = torch.nn.Parameter(weight)
        layers.append(layer)
        weighted += 1
    network = SpikingSequential(*layers).to(device)
    out = psc(network(torch.from_numpy(case["input"]).to(device)), params.tau_syn)
    target = psc(torch.from_numpy(case["target_spikes"]).float().to(device), params.tau_syn)
    loss = 0.5 * (out - target).square().sum()
    loss.backward()
    assert relative_error(loss, case["loss"]) < 1e-5
    assert relative_error(out, case["output_psc"]) < 1e-5
    weights = list(network.parameters())
    assert len(weights) == sum(name.startswith("weight_") for name in case.files)
    for k, weight in enumerate(weights):
        assert relative_error(weight.grad, case[f"grad_{k}"]) < 1e-5, f"weight {k}"


def check_layer_from_bits(layer: LIF, features: tuple[int, ...], steps: int, batch: int, device: Any) -> None:
    """A layer learns from packed spikes what it learns from dense ones."""
    layer = layer.to(device)
    generator = torch.Generator().manual_seed(0)
    currents = (1.5 * torch.randn((steps, batch, *features), generator=generator)).to(device)
    results = []
    for packed in (True, False):
        spikes = lif(currents).requires_grad_()
        out = layer(PackedSpikes.pack(spikes) if packed else spikes)
        grads = torch.autograd.grad(out, (layer.weight, spikes), torch.ones_like(out))
        results.append((out.detach(), *grads))
    assert results[0][0].any()
    assert torch.equal(results[0][0], results[1][0]), "spikes"
    for name, one, other in zip(("weight", "input"), results[0][1:], results[1][1:], strict=True):
        error = float((one - other).norm() / other.norm())
        assert error < 1e-5, f"gradient of the {name} differs by {error:.1e}"


def check_autocast(device: torch.device | str, dtype: torch.dtype) -> None:
    """Under autocast the neurons work on 16-bit weighted input, exactly as on a tensor of that type."""
    layer = SpikingLinear(300, 257, weight_scale=3.0).to(device)
    before = lif(draw_current((5, 4, 300), torch.float32).to(device).requires_grad_())
    with torch.autocast(torch.device(device).type, dtype):
        y = layer.weighted(before)
        y.retain_grad()
        spikes, state = lif(y, layer.params, return_state=True)
        assert torch.equal(layer(before), spikes)
    grad = draw_gradient((5, 4, 257), dtype)
    spikes.backward(grad.to(device))
    assert spikes.any()
    answer = Answer(spikes.detach().cpu(), y.grad.cpu(), LIFState(*(part.cpu() for part in state)))
    assert_agrees(answer, judge(y.detach().cpu(), grad, layer.params), dtype, unclear=0.05)
    assert layer.weight.dtype == layer.weight.grad.dtype == torch.float32
    want = torch.einsum("tbo,tbi->oi", y.grad.double(), before.detach().double())
    # The product of 16-bit numbers, rounded to 16 bits at its end.
    assert_close("weight gradient", layer.weight.grad, want, atol=float(want.abs().max()) * 2**-7)


def check_compiled(device: torch.device | str, backend: str) -> None:
    """`torch.compile` takes the neuron and a layer as one graph each, and the results are eager's.

    Inputs and weights are multiples of 1/8, so that products are exact in whatever order they are summed.
    """
    currents = draw_current((5, 2, 96), torch.float32).mul(8).round().div(8).to(device)
    layer = SpikingLinear(96, 64).to(device)
    with torch.no_grad():
        layer.weight.copy_((layer.weight * 8).round() / 4)
    for function in (lif, layer):
        results = []
        for run in (function, torch.compile(function, fullgraph=True, backend=backend)):
            leaf = currents.clone().requires_grad_()
            spikes = run(leaf)
            spikes.backward(torch.ones_like(spikes))
            results.append((spikes.detach(), leaf.grad))
        assert results[0][0].any()
        assert torch.equal(results[0][0], results[1][0])
        assert_close("gradient", results[1][1], results[0][1], rtol=1e-5, atol=1e-5)


def check_recovery(device: torch.device | str, too_many_steps: int, error: type[Exception]) -> None:
    """After an allocation that cannot be met, the same layer gives the same results as before."""
    layer = SpikingLinear(64, 1024).to(device)
    x = draw_current((5, 3, 64), torch.float32).to(device)

    def learnt() -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        spikes = layer(leaf)
        return [spikes.detach(), *torch.autograd.grad(spikes, (leaf, layer.weight), torch.ones_like(spikes))]

    before = learnt()
    for _ in range(2):
        with pytest.raises(error):
            layer(encoding.static(x[0], too_many_steps))
        for one, other in zip(before, learnt(), strict=True):
            assert torch.equal(one, other)


def answers(device: torch.device | str, work_before: Callable[[], object] = lambda: None) -> list[Tensor]:
    """What neuron, filter and packing return on ``device``, on the CPU; ``work_before`` is queued ahead of them."""
    y = draw_current((40, 3, 1001), torch.float32).to(device)
    grad = draw_gradient((40, 3, 1001), torch.float32).to(device)
    work_before()
    # Made only now, behind that work: a kernel on another stream would not see it yet.
    leaf = (y * 1.0).requires_grad_()
    spikes = lif(leaf)
    spikes.backward(grad * 1.0)
    words = pack_spikes(spikes)
    results = [spikes.detach(), leaf.grad, psc(spikes.detach(), 3.0), words, unpack_spikes(words, 40)]
    return [result.cpu() for result in results]


def check_same_answers(got: list[Tensor], want: list[Tensor]) -> None:
    """Equal, bit for bit."""
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)


def learnt(make: Callable[[], Any], run: Callable[[Any], Callable[[], Tensor]], steps: int) -> list[Tensor]:
    """The losses of ``steps`` training steps, then the weights; ``run`` turns what ``make`` made into a step."""
    step = make()
    call = run(step)
    losses = [call().clone() for _ in range(steps)]
    return [torch.stack(losses).cpu(), *(weight.detach().cpu() for weight in step.network.parameters())]


def launches_by_name(names: Iterable[str]) -> Counter[str]:
    """How often each of our kernels is among the names of kernels that a profiler saw."""
    found: Counter[str] = Counter()
    for name in names:
        for kernel in KERNELS:
            if kernel in name:
                found[kernel] += 1
    return found
