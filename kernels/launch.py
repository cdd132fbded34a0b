"""The launchers that stand behind the operators of `tssl_triton`, under one name each."""

from .neuron import lif_backward, lif_forward
from .packing import pack, unpack
from .synapse import psc

__all__ = ["lif_backward", "lif_forward", "pack", "psc", "unpack"]
