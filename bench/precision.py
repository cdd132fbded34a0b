"""``python -m bench precision``: gradients in float32, float16 and bfloat16 compared with float64, and flipped spikes.

The NumPy reference computes in float64 from the same rounded weights and inputs, so that the error is that of the
arithmetic: rounding of the weighted input y in every layer, and of gradients in backward. A rounded y may move a
membrane across the threshold, which flips a spike and changes the input of the layers after it. Such samples (neurons,
for the operator alone) are counted and left out, since the gradient of another spike train is not a rounding error.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tssl_triton.reference import Conv2d, Linear, NetworkResult, lif_backward, lif_forward, run_network

from bench.common.timing import machine
from tssl_triton import LIFParameters, SpikingConv2d, SpikingLinear, SpikingSequential, build_network, lif, losses

PARAMS = LIFParameters()
NEURON = {"tau_mem": PARAMS.tau_mem, "tau_syn": PARAMS.tau_syn, "threshold": PARAMS.threshold}
NETWORKS = {"20-15": (12,), "4C3-6C3": (1, 8, 8)}
CLASSES = 10
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Row:
    """One measurement.

    Args:
        what: "operator", or a network.
        dtype: of the tensors, or autocast of float32 weights.
        error: relative L2 error of the gradient; for a network, of the weight with the largest.
        flipped: fraction of neuron-steps whose spike differs from float64.
        left_out: fraction of neurons or samples with such a spike.
    """

    what: str
    dtype: str
    error: float
    flipped: float
    left_out: float


def operator(dtype: torch.dtype, steps: int = 20, neurons: int = 2000, seed: int = 0) -> Row:
    """The neurons alone, for the same y and upstream gradient."""
    generator = torch.Generator().manual_seed(seed)
    y = (1.5 * torch.randn((steps, 1, neurons), generator=generator)).to(dtype).requires_grad_()
    grad = torch.randn((steps, 1, neurons), generator=generator).to(dtype)
    spikes = lif(y, PARAMS)
    (ours,) = torch.autograd.grad(spikes, y, grad)
    trace = lif_forward(_array(y), **NEURON)
    want = lif_backward(trace, _array(grad), **NEURON)
    differ = _array(spikes) != trace.spikes
    clear = ~differ.any(axis=0)
    error = relative_l2(_array(ours)[:, clear], want[:, clear])
    return Row("operator", _name(dtype), error, float(differ.mean()), float(np.mean(~clear)))


def network(architecture: str, dtype: torch.dtype, autocast: bool = False, samples: int = 100, seed: int = 0) -> Row:
    """A network's weight gradients, summed over the samples without flipped spikes."""
    torch.manual_seed(seed)
    net = build_network(architecture, NETWORKS[architecture], CLASSES, weight_scale=1.5)
    x = 2.0 * torch.randn(5, samples, *NETWORKS[architecture])
    target = (torch.rand(5, samples, CLASSES) < 0.5).float()
    # Rounded to 16 bits; for autocast, back to float32.
    x, net = x.to(dtype), net.to(dtype)
    if autocast:
        x, net = x.float(), net.float()

    ours, _ = _train(net, x, target, dtype, autocast)
    differ = [got != trace.spikes for got, trace in zip(ours, _reference(net, x, target).traces, strict=True)]
    flipped = sum(int(layer.sum()) for layer in differ) / sum(layer.size for layer in differ)
    clear = ~np.any([layer.swapaxes(0, 1).reshape(samples, -1).any(axis=1) for layer in differ], axis=0)

    x, target = x[:, torch.from_numpy(clear)], target[:, torch.from_numpy(clear)]
    _, gradients = _train(net, x, target, dtype, autocast)
    wanted = _reference(net, x, target).weight_grads
    error = max(relative_l2(got, want) for got, want in zip(gradients, wanted, strict=True))
    name = f"autocast {_name(dtype)}" if autocast else _name(dtype)
    return Row(f"{architecture}-{CLASSES}", name, error, flipped, float(np.mean(~clear)))


def rows() -> Iterator[Row]:
    """The rows of the report."""
    for dtype in DTYPES.values():
        yield operator(dtype)
    for architecture in NETWORKS:
        for dtype in DTYPES.values():
            yield network(architecture, dtype)
        yield network(architecture, torch.bfloat16, autocast=True)


def relative_l2(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def _train(
    net: SpikingSequential, x: Tensor, target: Tensor, dtype: torch.dtype, autocast: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Each layer's spikes, and the gradient of each weight; the loss is float32."""
    net.zero_grad()
    spikes: list[Tensor] = []
    signal = x
    with torch.autocast("cpu", dtype, enabled=autocast):
        for layer in net:
            signal = layer(signal)
            spikes.append(signal)
    losses.van_rossum_loss(signal.float(), target, PARAMS.tau_syn).backward()
    return [_array(s) for s in spikes], [_array(p.grad) for p in net.parameters() if p.grad is not None]


def _reference(net: SpikingSequential, x: Tensor, target: Tensor) -> NetworkResult:
    """The float64 reference for the same weights and input."""
    layers: list[Linear | Conv2d] = []
    for layer in net:
        assert isinstance(layer, (SpikingLinear, SpikingConv2d))
        kind = Linear if isinstance(layer, SpikingLinear) else Conv2d
        layers.append(kind(_array(layer.weight)))
    return run_network(layers, _array(x), _array(target), **NEURON)


def _array(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def run(_: argparse.Namespace) -> None:
    print(f"gradients against float64 on {machine()}")
    print(f"{'what':14} {'tensors':18} {'relative L2 error':>18} {'spikes flipped':>15} {'left out':>9}")
    for r in rows():
        print(f"{r.what:14} {r.dtype:18} {r.error:18.1e} {r.flipped:14.3%} {r.left_out:9.1%}", flush=True)


def add_to(commands: Any) -> None:
    parser = commands.add_parser("precision", help=__doc__.splitlines()[0], description=__doc__)
    parser.set_defaults(run=run)
