"""Export and import: NIR graphs, and weights in safetensors files.

NIR, the Neuromorphic Intermediate Representation (Pedersen et al., Nature Communications 15:8122, 2024), describes a
network as a graph of differential equations for simulators and neuromorphic chips. A reader that integrates ``CubaLIF``
by forward Euler, with the time step of the export and the synaptic current of the same step in the membrane, computes
the neuron of this package::

    tau_syn dI/dt = -I + w_in S              i[t] = beta i[t-1] + y[t] / tau_syn
    tau_mem dv/dt = v_leak - v + R I         u[t] = alpha v[t-1] + i[t]

``docs/interchange.md`` derives the constants, and lists what is not exported and which programs read it.
"""

from __future__ import annotations

from .errors import InterchangeError
from .nir_export import to_nir
from .nir_import import from_nir
from .weights import load_weights, save_weights

__all__ = ["InterchangeError", "from_nir", "load_weights", "save_weights", "to_nir"]
