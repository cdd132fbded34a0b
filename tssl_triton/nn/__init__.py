"""Layers and networks as ``torch.nn`` modules."""

from .ann import ANN, Pool2d, build_ann
from .conversion import ConversionError, activation_scales, convert
from .fused import prefers_fused, spike_conv2d, spike_linear
from .learnable import LearnableConstants
from .network import ArchitectureError, build_network, parse_architecture, spiking_layers
from .recurrent import RecurrentState, SpikingRecurrent
from .weighted import LIF, SpikePool2d, SpikingConv2d, SpikingLinear, SpikingSequential, TimeSharedDropout

__all__ = [
    "ANN",
    "LIF",
    "ArchitectureError",
    "ConversionError",
    "LearnableConstants",
    "Pool2d",
    "RecurrentState",
    "SpikePool2d",
    "SpikingConv2d",
    "SpikingLinear",
    "SpikingRecurrent",
    "SpikingSequential",
    "TimeSharedDropout",
    "activation_scales",
    "build_ann",
    "build_network",
    "convert",
    "parse_architecture",
    "prefers_fused",
    "spike_conv2d",
    "spike_linear",
    "spiking_layers",
]
