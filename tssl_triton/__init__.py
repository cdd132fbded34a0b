"""Deep spiking neural networks trained with TSSL-BP through fused Triton kernels.

All tensors are time-major, ``(T, B, *features)``. `tssl_triton.functional` has the neuron, `tssl_triton.nn` layers and
networks, `tssl_triton.losses` what they are trained towards.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULE_OF = {
    "LIFParameters": "parameters",
    **dict.fromkeys(("SLAYER", "STBP", "TSSL"), "rules"),
    **dict.fromkeys(
        ("LIFConstants", "LIFState", "implementation", "lif", "pack_spikes", "psc", "unpack_spikes"), "functional"
    ),
    "PackedSpikes": "operators.packed_spikes",
    "StaticInput": "encoding",
    **dict.fromkeys(
        (
            "LIF",
            "LearnableConstants",
            "RecurrentState",
            "SpikePool2d",
            "SpikingConv2d",
            "SpikingLinear",
            "SpikingRecurrent",
            "SpikingSequential",
            "TimeSharedDropout",
            "build_ann",
            "build_network",
            "convert",
            "spike_conv2d",
            "spike_linear",
        ),
        "nn",
    ),
}
_MODULES = (
    "data",
    "encoding",
    "functional",
    "inspection",
    "interchange",
    "losses",
    "nn",
    "parameters",
    "rules",
    "studies",
    "training",
)

__all__ = [*sorted(_MODULE_OF), *_MODULES]


def __getattr__(name: str) -> Any:
    # Imported on first use: `tssl_triton.reference` then needs nothing but NumPy.
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
