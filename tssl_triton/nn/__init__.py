"""Layers and networks as ``torch.nn`` modules: spike trains ``(T, B, *features)`` in, spike trains out.

A layer takes a tensor, a `StaticInput` where the input does not change over time, or `PackedSpikes`. Layers with
neurons take a ``state`` and return the new one with ``return_state=True``, so a long sequence can run window by window.
"""

from .ann import ANN, Pool2d, build_ann
from .conversion import ConversionError, RunningPercentile, activation_scales, convert
from .fused import prefers_fused, spike_conv2d, spike_linear
from .network import (
    ArchitectureError,
    Padding,
    Pool,
    build_network,
    checked_shape,
    parse_architecture,
    spiking_layers,
)
from .neurons import LIF, PER, LearnableConstants, checked_learn
from .pooling import SpikePool2d, TimeSharedDropout
from .recurrent import RecurrentState, SpikingRecurrent
from .sequential import SpikingSequential
from .weighted import SpikingConv2d, SpikingLinear

__all__ = [
    "ANN",
    "LIF",
    "PER",
    "ArchitectureError",
    "ConversionError",
    "LearnableConstants",
    "Padding",
    "Pool",
    "Pool2d",
    "RecurrentState",
    "RunningPercentile",
    "SpikePool2d",
    "SpikingConv2d",
    "SpikingLinear",
    "SpikingRecurrent",
    "SpikingSequential",
    "TimeSharedDropout",
    "activation_scales",
    "build_ann",
    "build_network",
    "checked_learn",
    "checked_shape",
    "convert",
    "parse_architecture",
    "prefers_fused",
    "spike_conv2d",
    "spike_linear",
    "spiking_layers",
]
