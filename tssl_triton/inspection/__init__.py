"""Analysis of trained networks: spikes, membranes and errors of one sample, firing rates of many.

`inspect` is the function behind ``tssl inspect``, `tssl_triton.inspection.sparsity.measure` the one behind
``tssl sparsity``. `membrane_trace` and `error_trace` replay the neurons of any layer.
"""

from .inspect import Inspection, Presentation, TracedNeurons, inspect
from .replay import ErrorTrace, MembraneTrace, error_trace, membrane_trace, warming_up
from .sparsity import LayerSparsity, Sparsity, SpikeCounter

__all__ = [
    "ErrorTrace",
    "Inspection",
    "LayerSparsity",
    "MembraneTrace",
    "Presentation",
    "Sparsity",
    "SpikeCounter",
    "TracedNeurons",
    "error_trace",
    "inspect",
    "membrane_trace",
    "warming_up",
]
