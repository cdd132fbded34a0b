"""A network as a NIR graph: a chain of nodes from one input to one output."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tssl_triton._checks import check_finite
from tssl_triton._extras import require
from tssl_triton.nn.network import checked_shape
from tssl_triton.nn.recurrent import SpikingRecurrent
from tssl_triton.nn.weighted import LIF, SpikePool2d, SpikingConv2d, SpikingLinear, SpikingSequential, TimeSharedDropout

from .errors import InterchangeError
from .geometry import image_size, windows
from .metadata import DT, attached
from .neurons import neuron_node

if TYPE_CHECKING:
    import nir


def to_nir(network: SpikingSequential, in_shape: Sequence[int], dt: float = DT) -> nir.NIRGraph:
    """Write a network as a NIR graph, which `nir.write` puts into a file.

    ===============================  ==========================================================================
    ``SpikingLinear``                ``Flatten`` where its input has more than one axis, ``Linear`` (``Affine``
                                     with bias), ``CubaLIF``
    ``SpikingConv2d``                ``Conv2d``, ``CubaLIF``
    ``LIF``                          ``CubaLIF``; ``LIF`` with ``synapse=False``
    ``SpikePool2d``                  ``SumPool2d``, its scale multiplied into the next weights; ``AvgPool2d``
    ``TimeSharedDropout``            nothing: it changes nothing but training
    ===============================  ==========================================================================

    Args:
        network: the network, on any device; it is left as it is.
        in_shape: shape of one input without time and batch, ``(C, H, W)`` or ``(N,)``.
        dt: seconds per time step. It sets the time constants of the graph, which readers divide by a time step of
            their own: that of snnTorch and Lava is always 1e-4.

    Returns:
        The graph. What NIR has no field for is in its nodes' metadata, so that `from_nir` gives the same network back.

    Raises:
        InterchangeError: (a ValueError) naming the layer that NIR cannot express, or that does not fit its input.
        MissingExtraError: without nir.
        TypeError, ValueError: naming the argument.

    Warns:
        UserWarning: if neurons are reset by subtraction, which NIR cannot say: other programs will reset them to 0.
    """
    nodes = require("nir", "interchange", "writing a NIR graph")
    if not isinstance(network, SpikingSequential):
        raise TypeError(f"network must be a SpikingSequential, got {type(network).__name__}")
    shape = checked_shape(in_shape)
    if check_finite("dt", dt) <= 0:
        raise ValueError(f"dt must be a time in seconds > 0, got {dt!r}")
    writer = _Writer(nodes, shape, dt)
    for name, layer in _leaves(network):
        try:
            writer.add(layer)
        except ValueError as error:
            raise InterchangeError(f"layer {name!r} ({type(layer).__name__}): {error}") from error
    if any(isinstance(layer, LIF) and layer.params.reset == "subtract" for _, layer in _leaves(network)):
        warnings.warn(
            "NIR has no reset by subtraction: programs other than tssl-triton will reset these neurons to 0",
            stacklevel=2,
        )
    return writer.graph()


def _leaves(network: SpikingSequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, layer in network._modules.items():  # `named_children` would leave out a layer that comes again
        assert layer is not None
        if isinstance(layer, SpikingSequential):
            yield from _leaves(layer, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", layer


class _Writer:
    """Nodes so far, the shape behind them, and what is owed to the next weights."""

    def __init__(self, nir: Any, shape: tuple[int, ...], dt: float) -> None:
        self.nir = nir
        self.nodes: list[Any] = [nir.Input(input_type={"input": np.array(shape)})]
        self.shape = shape
        self.dt = dt
        # Scale of the sum poolings since the last neurons: NIR's sum has none, so the next weights take it.
        self.scale = 1.0

    def graph(self) -> Any:
        if self.scale != 1.0:
            raise InterchangeError(
                f"the network ends in a sum pooling; NIR has none with a scale, here {self.scale:g}, "
                "and no weights follow that could take it"
            )
        self.nodes.append(self.nir.Output(output_type={"output": np.array(self.shape)}))
        graph = self.nir.NIRGraph.from_list(self.nodes)
        graph.metadata = attached({"dt": self.dt})
        return graph

    def add(self, layer: nn.Module) -> None:
        """Append the nodes of one layer.

        Raises:
            ValueError: if there are none, or the layer does not fit the shape before it.
        """
        if isinstance(layer, SpikingRecurrent):
            raise ValueError("its feedback fits no chain of nodes, which is what is written and read here")
        if isinstance(layer, SpikingLinear):
            self._add_linear(layer)
        elif isinstance(layer, SpikingConv2d):
            self._add_convolution(layer)
        elif isinstance(layer, LIF):
            self._add_neurons(layer, self.scale)
        elif isinstance(layer, SpikePool2d):
            self._add_pooling(layer)
        elif not isinstance(layer, TimeSharedDropout):
            raise ValueError("NIR graphs are written of this package's layers only")

    def _add_linear(self, layer: SpikingLinear) -> None:
        features = math.prod(self.shape)
        if features != layer.in_features:
            raise ValueError(f"it takes {layer.in_features} features, its input has {features}, shape {self.shape}")
        if len(self.shape) > 1:
            # Counted from the last axis, which is right for readers with a batch axis and for those without.
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
            raise ValueError(f"it takes {layer.in_channels} channels, its input has {self.shape[0]}")
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
        # nir works the size out from the kernel's height alone.
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
                raise ValueError("a scale of 0 cannot be multiplied into weights and taken out again")
            self.nodes.append(self.nir.SumPool2d(**geometry, metadata=attached({"scale": layer.scale})))
            self.scale *= layer.scale
        self.shape = (self.shape[0], *out)

    def _weight(self, weight: Tensor) -> np.ndarray:
        """The weights, with the scale that they owe; in float64, from which the importer finds the same ones again."""
        values = _array(weight)
        return values if self.scale == 1.0 else values.astype(np.float64) * self.scale

    def _weight_metadata(self, layer: SpikingLinear | SpikingConv2d) -> dict[str, Any]:
        dtype = str(layer.weight.dtype).removeprefix("torch.")
        return attached({"dtype": dtype, "bias": layer.bias is not None})


def _array(tensor: Tensor) -> np.ndarray:
    """A tensor's numbers, without loss: NumPy lacks bfloat16, and many readers have no use for 16 bits."""
    wide = tensor.detach().cpu()
    return (wide if wide.dtype == torch.float64 else wide.float()).numpy().copy()
