"""Export of a network as a NIR graph: a chain of nodes from one input to one output."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tssl_triton._checks import check_finite
from tssl_triton._extras import require
from tssl_triton.nn import (
    LIF,
    SpikePool2d,
    SpikingConv2d,
    SpikingLinear,
    SpikingRecurrent,
    SpikingSequential,
    TimeSharedDropout,
)
from tssl_triton.nn.network import checked_shape

from .errors import InterchangeError
from .geometry import image_size, windows
from .metadata import DT, attached
from .neurons import neuron_node

if TYPE_CHECKING:
    import nir


def to_nir(network: SpikingSequential, in_shape: Sequence[int], dt: float = DT) -> nir.NIRGraph:
    """Convert a network to a NIR graph, which `nir.write` writes to a file.

    ===============================  ==========================================================================
    ``SpikingLinear``                ``Flatten`` if its input has more than one axis, ``Linear`` (``Affine``
                                     with bias), ``CubaLIF``
    ``SpikingConv2d``                ``Conv2d``, ``CubaLIF``
    ``LIF``                          ``CubaLIF``; ``LIF`` with ``synapse=False``
    ``SpikePool2d``                  ``SumPool2d``, with its scale multiplied into the next weights; ``AvgPool2d``
    ``TimeSharedDropout``            nothing: it only affects training
    ===============================  ==========================================================================

    Args:
        network: the network, on any device; not modified.
        in_shape: shape of one input without time and batch, ``(C, H, W)`` or ``(N,)``.
        dt: seconds per time step. It sets the time constants of the graph, which readers divide by their own time
            step: snnTorch and Lava always use 1e-4.

    Returns:
        The graph. Settings that NIR has no field for are in the metadata of its nodes, so that `from_nir` returns the
        same network.

    Raises:
        InterchangeError: (a ValueError) if a layer does not fit its input or NIR cannot express it; names the layer.
        MissingExtraError: if nir is not installed.
        TypeError, ValueError: if an argument is invalid; the message names it.

    Warns:
        UserWarning: if neurons are reset by subtraction, which NIR cannot express: other programs reset them to 0.
    """
    nodes = require("nir", "interchange", "writing a NIR graph")
    if not isinstance(network, SpikingSequential):
        raise TypeError(f"network must be a SpikingSequential, got {type(network).__name__}")
    shape = checked_shape(in_shape)
    if check_finite("dt", dt) <= 0:
        raise ValueError(f"dt must be a time in seconds > 0, got {dt!r}")
    writer = _Writer(nodes, shape, dt)
    layers = _leaves(network)
    for name, layer in layers:
        try:
            writer.add(layer)
        except ValueError as error:
            raise InterchangeError(f"layer {name!r} ({type(layer).__name__}): {error}") from error
    if any(isinstance(layer, LIF) and layer.params.reset == "subtract" for _, layer in layers):
        warnings.warn(
            "NIR has no reset by subtraction: programs other than tssl-triton will reset these neurons to 0",
            stacklevel=2,
        )
    return writer.graph()


def _leaves(network: SpikingSequential) -> list[tuple[str, nn.Module]]:
    """The layers of nested networks, with their names; a layer that is used twice is listed twice."""
    return [
        (name, layer)
        for name, layer in network.named_modules(remove_duplicate=False)
        if not isinstance(layer, SpikingSequential)
        and isinstance(network.get_submodule(name.rpartition(".")[0]), SpikingSequential)
    ]


class _Writer:
    """The nodes so far, the shape of their output, and the scale that the next weights must include."""

    def __init__(self, nir: Any, shape: tuple[int, ...], dt: float) -> None:
        self.nir = nir
        self.nodes: list[Any] = [nir.Input(input_type={"input": np.array(shape)})]
        self.shape = shape
        self.dt = dt
        # Scale of the sum poolings since the last neurons. SumPool2d has no scale, so the next weights include it.
        self.scale = 1.0

    def graph(self) -> Any:
        if self.scale != 1.0:
            raise InterchangeError(
                f"the network ends in a sum pooling with scale {self.scale:g}; NIR has no scale, and no weights follow "
                "that could include it"
            )
        self.nodes.append(self.nir.Output(output_type={"output": np.array(self.shape)}))
        graph = self.nir.NIRGraph.from_list(self.nodes)
        graph.metadata = attached({"dt": self.dt})
        return graph

    def add(self, layer: nn.Module) -> None:
        """Append the nodes of one layer.

        Raises:
            ValueError: if NIR cannot express the layer, or it does not fit its input.
        """
        if isinstance(layer, SpikingRecurrent):
            raise ValueError("recurrent layers cannot be exported: the graph is a chain of nodes")
        if isinstance(layer, SpikingLinear):
            self._add_linear(layer)
        elif isinstance(layer, SpikingConv2d):
            self._add_convolution(layer)
        elif isinstance(layer, LIF):
            self._add_neurons(layer, self.scale)
        elif isinstance(layer, SpikePool2d):
            self._add_pooling(layer)
        elif not isinstance(layer, TimeSharedDropout):
            raise ValueError("only layers of this package can be exported")

    def _add_linear(self, layer: SpikingLinear) -> None:
        features = math.prod(self.shape)
        if features != layer.in_features:
            raise ValueError(f"it has {layer.in_features} input features, got {features} in shape {self.shape}")
        if len(self.shape) > 1:
            # Axes counted from the last one are right with and without a batch axis.
            self.nodes.append(self.nir.Flatten({"input": np.array(self.shape)}, -len(self.shape), -1))
        weight, metadata = self._weight(layer.weight), self._weight_metadata(layer)
        if layer.bias is None:
            self.nodes.append(self.nir.Linear(weight=weight, metadata=metadata))
        else:
            self.nodes.append(self.nir.Affine(weight=weight, bias=_array(layer.bias), metadata=metadata))
        self.shape = (layer.out_features,)
        self._add_neurons(layer)

    def _add_convolution(self, layer: SpikingConv2d) -> None:
        size = image_size(self.shape)
        if self.shape[0] != layer.in_channels:
            raise ValueError(f"it has {layer.in_channels} input channels, got {self.shape[0]}")
        bias = np.zeros(layer.out_channels, np.float32) if layer.bias is None else _array(layer.bias)
        node = self.nir.Conv2d(
            input_shape=size,
            weight=self._weight(layer.weight),
            stride=layer.stride,
            padding=layer.padding,
            dilation=(1, 1),
            groups=1,
            bias=bias,
            metadata=self._weight_metadata(layer),
        )
        out = windows(size, layer.kernel_size, layer.stride, layer.padding)
        self.shape = (layer.out_channels, *out)
        # nir computes the size from the height of the kernel alone.
        node.output_type = {"output": np.array(self.shape)}
        self.nodes.append(node)
        self._add_neurons(layer)

    def _add_neurons(self, layer: LIF, w_in: float = 1.0) -> None:
        self.nodes.append(neuron_node(layer, self.shape, self.dt, w_in))
        self.scale = 1.0

    def _add_pooling(self, layer: SpikePool2d) -> None:
        if layer.kind == "max":
            raise ValueError("NIR has no maximum pooling")
        out = windows(image_size(self.shape), layer.kernel_size, layer.kernel_size, (0, 0))
        window = np.array(layer.kernel_size)
        geometry = {"kernel_size": window, "stride": window.copy(), "padding": np.array([0, 0])}
        if layer.kind == "average":
            self.nodes.append(self.nir.AvgPool2d(**geometry))
        else:
            if layer.scale == 0:
                raise ValueError("a scale of 0 cannot be multiplied into weights and divided out again")
            self.nodes.append(self.nir.SumPool2d(**geometry, metadata=attached({"scale": layer.scale})))
            self.scale *= layer.scale
        self.shape = (self.shape[0], *out)

    def _weight(self, weight: Tensor) -> np.ndarray:
        """The weights times the pending scale, in float64, so that the import recovers the same weights."""
        values = _array(weight)
        return values if self.scale == 1.0 else values.astype(np.float64) * self.scale

    def _weight_metadata(self, layer: SpikingLinear | SpikingConv2d) -> dict[str, Any]:
        dtype = str(layer.weight.dtype).removeprefix("torch.")
        return attached({"dtype": dtype, "bias": layer.bias is not None})


def _array(tensor: Tensor) -> np.ndarray:
    """The values in float32 or float64: NumPy has no bfloat16, and many readers no 16-bit numbers."""
    wide = tensor.detach().cpu()
    return (wide if wide.dtype == torch.float64 else wide.float()).numpy().copy()
