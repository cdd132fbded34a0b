"""Import of a NIR graph as a network of this package."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from tssl_triton._checks import FLOATING, check_finite
from tssl_triton._extras import require
from tssl_triton.nn import LIF, SpikePool2d, SpikingConv2d, SpikingLinear, SpikingSequential

from .errors import InterchangeError
from .geometry import image_size, pair, windows
from .metadata import DT, entries_of
from .neurons import SINGLE, Neurons, read_neurons

if TYPE_CHECKING:
    import nir

READABLE = "Conv2d, Linear, Affine, CubaLIF, LIF, SumPool2d, AvgPool2d and Flatten"

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATING}


def from_nir(graph: nir.NIRGraph, dt: float | None = None) -> SpikingSequential:
    """Build the network that a NIR graph describes, as integrated by forward Euler.

    A graph from `to_nir` gives the same network, without dropout layers. For other graphs, settings that NIR does not
    have are: reset to 0, the default learning rule and ``LIFParameters()``, weights in float32, and no bias for a
    ``Conv2d`` with an all-zero bias. ``w_in`` and ``r`` are multiplied into weights and bias (neurons without weights:
    the threshold is divided by them). A ``LIF`` node becomes a neuron with ``tau_syn`` of one step.

    Args:
        graph: a chain of nodes from one input to one output.
        dt: seconds per time step of the network. Default: that of the export, or 1 ms.

    Returns:
        The network, on the CPU.

    Raises:
        InterchangeError: (a ValueError) if a node cannot be represented exactly; names the node. Not representable
            are other kinds of nodes, branches and recurrence, weights without neurons, ``v_leak`` or ``v_reset`` other
            than 0, neurons of one node that differ, overlapping or padded pooling, dilated or grouped convolution.
        MissingExtraError: if nir is not installed.
        TypeError, ValueError: if an argument is invalid; the message names it.
    """
    nodes = require("nir", "interchange", "reading a NIR graph")
    if not isinstance(graph, nodes.NIRGraph):
        raise TypeError(f"graph must be a nir.NIRGraph, as nir.read returns it, got {type(graph).__name__}")
    dt = entries_of(graph).get("dt", DT) if dt is None else dt
    if check_finite("dt", dt) <= 0:
        raise ValueError(f"dt must be a time in seconds > 0, got {dt!r}")
    reader = _Reader(nodes, dt)
    chain = _chain(nodes, graph)
    for name, following in zip(chain, [*chain[1:], None], strict=True):
        node = graph.nodes[name]
        try:
            reader.read(node, None if following is None else graph.nodes[following])
        except (ValueError, TypeError) as error:
            raise InterchangeError(f"node {name!r} ({type(node).__name__}): {error}") from error
    return SpikingSequential(*reader.layers)


def _chain(nodes: Any, graph: nir.NIRGraph) -> list[str]:
    """Names of the nodes from input to output."""
    ends = []
    for kind in (nodes.Input, nodes.Output):
        found = [name for name, node in graph.nodes.items() if isinstance(node, kind)]
        if len(found) != 1:
            raise InterchangeError(f"the graph must have one {kind.__name__} node, got {len(found)}: {found}")
        ends += found
    first, last = ends
    after: dict[str, str] = {}
    before: dict[str, str] = {}
    for source, target in graph.edges:
        for name in (source, target):
            if name not in graph.nodes:
                raise InterchangeError(f"there is an edge from {source!r} to {target!r}, but no node {name!r}")
        for here, there, ways, neighbours in ((source, target, after, "outputs"), (target, source, before, "inputs")):
            if here in ways:
                raise InterchangeError(
                    f"node {here!r} has several {neighbours}, {ways[here]!r} and {there!r}: "
                    "branches and recurrence cannot be represented"
                )
            ways[here] = there
    # No node has two inputs, so a loop can only close at the first node.
    chain = [first]
    while after.get(chain[-1], first) != first:
        chain.append(after[chain[-1]])
    if chain[-1] in after or chain[-1] != last:
        raise InterchangeError(f"node {chain[-1]!r} does not lead to the output {last!r}")
    for name in graph.nodes:
        if name not in chain:
            raise InterchangeError(f"node {name!r} is not on the path from input to output")
    return chain


class _Reader:
    """The layers so far and the shape of their output."""

    def __init__(self, nir: Any, dt: float) -> None:
        self.nir = nir
        self.dt = dt
        self.layers: list[nn.Module] = []
        self.shape: tuple[int, ...] = ()
        # Scale of poolings by their metadata, which the export multiplied into the next weights.
        self.scale = 1.0
        # Constructs a layer from the neurons that follow its weights.
        self.weights: Callable[[Neurons], nn.Module] | None = None
        # Whether there was a Flatten: vectors instead of images.
        self.flattened = False

    def read(self, node: Any, following: Any) -> None:
        """Add one node; ``following`` is the node after it.

        Raises:
            TypeError, ValueError: if the node cannot be represented.
        """
        nir = self.nir
        if isinstance(node, nir.Input):
            self.shape = _shape(node)
        elif isinstance(node, nir.Output):
            if self.scale != 1.0:
                raise ValueError(
                    "by its metadata, a pooling has a scale that is included in the next weights, but no weights follow"
                )
        elif isinstance(node, nir.Flatten):
            if not isinstance(following, (nir.Linear, nir.Affine)):
                raise ValueError("Flatten must be followed by Linear or Affine")
            self.flattened = True
        elif isinstance(node, (nir.Linear, nir.Affine, nir.Conv2d)):
            if not isinstance(following, (nir.CubaLIF, nir.LIF)):
                raise ValueError("weights must be followed by CubaLIF or LIF, with which they form one layer")
            self.weights = self._convolution(node) if isinstance(node, nir.Conv2d) else self._linear(node)
        elif isinstance(node, (nir.CubaLIF, nir.LIF)):
            neurons = read_neurons(node, self.shape, self.dt)
            self.layers.append(self._neurons(neurons) if self.weights is None else self.weights(neurons))
            self.weights, self.scale = None, 1.0
        elif isinstance(node, (nir.SumPool2d, nir.AvgPool2d)):
            self.layers.append(self._pooling(node))
        else:
            raise ValueError(f"this node cannot be represented; supported nodes: {READABLE}")

    def _linear(self, node: Any) -> Callable[[Neurons], nn.Module]:
        weight = np.asarray(node.weight)
        if weight.ndim != 2:
            raise ValueError(f"weight must have two axes, got shape {weight.shape}")
        features = math.prod(self.shape)
        if features != weight.shape[1]:
            raise ValueError(f"it has {weight.shape[1]} input features, got {features} in shape {self.shape}")
        if len(self.shape) > 1 and not self.flattened:
            raise ValueError(f"its input has shape {self.shape}; it needs a Flatten before it")
        self.shape = (weight.shape[0],)
        layer = partial(SpikingLinear, weight.shape[1], weight.shape[0])
        return self._weights(node, layer, getattr(node, "bias", None))

    def _convolution(self, node: Any) -> Callable[[Neurons], nn.Module]:
        size, weight = image_size(self.shape), np.asarray(node.weight)
        if weight.ndim != 4:
            raise ValueError(f"weight must have four axes, got shape {weight.shape}")
        channels_out, channels_in, *window = weight.shape
        if node.groups != 1 or pair("dilation", node.dilation) != (1, 1):
            raise ValueError(f"groups and dilation must be 1, got {node.groups} and {node.dilation}")
        if channels_in != self.shape[0]:
            raise ValueError(f"it has {channels_in} input channels, got {self.shape[0]}")
        kernel, stride = pair("kernel_size", window), pair("stride", node.stride)
        padding = _padding(node.padding, kernel, stride)
        self.shape = (channels_out, *windows(size, kernel, stride, padding))
        layer = partial(SpikingConv2d, channels_in, channels_out, kernel, stride=stride, padding=padding)
        # A Conv2d node always has a bias. Metadata say whether the layer had one; without metadata, zeros mean none.
        bias = np.asarray(node.bias)
        return self._weights(node, layer, bias if entries_of(node).get("bias", bias.any()) else None)

    def _weights(self, node: Any, make: Callable[..., Any], bias: Any) -> Callable[[Neurons], nn.Module]:
        name = entries_of(node).get("dtype", "float32")
        if name not in DTYPES:
            raise ValueError(f"its metadata have the unknown dtype {name!r}; known dtypes: {', '.join(DTYPES)}")
        weight = np.asarray(node.weight)
        if bias is not None and np.shape(bias) != weight.shape[:1]:
            raise ValueError(f"bias has shape {np.shape(bias)}, but its weights have {weight.shape[0]} outputs")
        if self.scale != 1.0:
            weight = weight.astype(np.float64) / self.scale
        return partial(_layer, make, weight, None if bias is None else np.asarray(bias), DTYPES[name])

    def _neurons(self, neurons: Neurons) -> LIF:
        gain = neurons.gain / self.scale
        gain = 1.0 if abs(gain - 1.0) <= SINGLE else gain
        if not gain > 0:
            raise ValueError(f"w_in and r multiply its input by {gain:g}; without weights, this factor must be > 0")
        # Scaling input and threshold by the same factor leaves the spikes unchanged.
        params = dataclasses.replace(neurons.params, threshold=neurons.params.threshold / gain)
        return LIF(params, synapse=neurons.synapse, rule=neurons.rule)

    def _pooling(self, node: Any) -> SpikePool2d:
        kernel = pair("kernel_size", node.kernel_size)
        if pair("stride", node.stride) != kernel or pair("padding", node.padding) != (0, 0):
            raise ValueError(
                f"pooling windows must not overlap or be padded, got kernel_size {node.kernel_size}, "
                f"stride {node.stride}, padding {node.padding}"
            )
        self.shape = (self.shape[0], *windows(image_size(self.shape), kernel, kernel, (0, 0)))
        if isinstance(node, self.nir.AvgPool2d):
            return SpikePool2d(kernel, "average")
        scale = check_finite("scale", entries_of(node).get("scale", 1.0))
        if scale == 0:
            raise ValueError("its metadata have a scale of 0, which weights cannot include")
        self.scale *= scale
        return SpikePool2d(kernel, "sum", scale)


def _layer(
    make: Callable[..., Any], weight: np.ndarray, bias: np.ndarray | None, dtype: torch.dtype, neurons: Neurons
) -> nn.Module:
    """The layer that ``make`` constructs, with these weights."""
    params = neurons.params if neurons.synapse else dataclasses.replace(neurons.params, tau_syn=1.0)
    # On the meta device, so that no initial weights are drawn from the global random number generator.
    with torch.device("meta"):
        layer = make(params, bias=bias is not None, rule=neurons.rule, **neurons.execution)
    layer.weight = _parameter(weight, neurons.gain, dtype)
    if bias is not None:
        layer.bias = _parameter(bias, neurons.gain, dtype)
    return layer


def _parameter(values: np.ndarray, gain: float, dtype: torch.dtype) -> nn.Parameter:
    scaled = values if gain == 1.0 else values.astype(np.float64) * gain
    return nn.Parameter(torch.tensor(scaled).to(dtype))


def _padding(padding: Any, kernel: tuple[int, int], stride: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(padding, str):
        return pair("padding", padding)
    if padding == "valid":
        return 0, 0
    if padding != "same" or stride != (1, 1) or any(side % 2 == 0 for side in kernel):
        raise ValueError(f"padding {padding!r} needs an odd kernel and stride 1, got kernel {kernel}, stride {stride}")
    return kernel[0] // 2, kernel[1] // 2


def _shape(node: Any) -> tuple[int, ...]:
    (shape,) = node.input_type.values()
    if shape is None or len(shape) == 0:
        raise ValueError("it must have the shape of one input")
    return tuple(int(extent) for extent in shape)
