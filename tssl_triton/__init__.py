"""Deep spiking neural networks trained with TSSL-BP through fused Triton kernels.

All tensors are time-major, ``(T, B, *features)``. See `tssl_triton.functional` for the neuron itself,
`tssl_triton.modules` for layers, `tssl_triton.network` for whole networks from a string.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .ann import build_ann as build_ann
    from .conversion import convert as convert
    from .encoding import StaticInput as StaticInput
    from .functional import LIFConstants as LIFConstants
    from .functional import LIFState as LIFState
    from .functional import implementation as implementation
    from .functional import lif as lif
    from .functional import pack_spikes as pack_spikes
    from .functional import psc as psc
    from .functional import unpack_spikes as unpack_spikes
    from .fused import spike_conv2d as spike_conv2d
    from .fused import spike_linear as spike_linear
    from .learnable import LearnableConstants as LearnableConstants
    from .modules import LIF as LIF
    from .modules import SpikePool2d as SpikePool2d
    from .modules import SpikingConv2d as SpikingConv2d
    from .modules import SpikingLinear as SpikingLinear
    from .modules import SpikingSequential as SpikingSequential
    from .modules import TimeSharedDropout as TimeSharedDropout
    from .network import build_network as build_network
    from .packed_spikes import PackedSpikes as PackedSpikes
    from .parameters import LIFParameters as LIFParameters
    from .recurrent import RecurrentState as RecurrentState
    from .recurrent import SpikingRecurrent as SpikingRecurrent
    from .rules import SLAYER as SLAYER
    from .rules import STBP as STBP
    from .rules import TSSL as TSSL

__version__ = "0.1.0"

_HOME = {
    "parameters": ("LIFParameters",),
    "rules": ("SLAYER", "STBP", "TSSL"),
    "functional": ("LIFConstants", "LIFState", "implementation", "lif", "pack_spikes", "psc", "unpack_spikes"),
    "fused": ("spike_conv2d", "spike_linear"),
    "packed_spikes": ("PackedSpikes",),
    "encoding": ("StaticInput",),
    "modules": (
        "LIF",
        "SpikePool2d",
        "SpikingConv2d",
        "SpikingLinear",
        "SpikingSequential",
        "TimeSharedDropout",
    ),
    "learnable": ("LearnableConstants",),
    "recurrent": ("RecurrentState", "SpikingRecurrent"),
    "network": ("build_network",),
    "ann": ("build_ann",),
    "conversion": ("convert",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
_SUBMODULES = (
    "ablate",
    "ann",
    "conversion",
    "data",
    "encoding",
    "functional",
    "fused",
    "inspection",
    "interchange",
    "losses",
    "modules",
    "network",
    "parameters",
    "replay",
    "rules",
    "study",
    "train",
    "trials",
)

__all__ = [*sorted(_MODULE_OF), *_SUBMODULES]


def __getattr__(name: str) -> Any:
    # Loaded when first asked for, so that `tssl_triton.reference` needs nothing but NumPy.
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    if name in _SUBMODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
