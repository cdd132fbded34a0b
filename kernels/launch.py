"""The launchers that stand behind the operators of `tssl_triton`, under one name each."""

from .fused import spike_weighted
from .neuron import lif_backward, lif_forward
from .packing import pack, unpack
from .surrogate import surrogate_backward
from .synapse import psc
from .weight_gradient import weight_gradient

__all__ = [
    "lif_backward",
    "lif_forward",
    "pack",
    "psc",
    "spike_weighted",
    "surrogate_backward",
    "unpack",
    "weight_gradient",
]
