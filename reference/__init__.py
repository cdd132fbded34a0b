"""NumPy reference of TSSL-BP: float64, slow, obvious, straight from the paper's equations.

Everything else in the project is judged by this package, so it shares nothing with what it judges: it imports
NumPy alone, walks time in Python loops and sums the error over every pair (k, m) of the paper's table phi.
All arrays are time-major, ``(T, B, *features)``, and are cast to float64 once, where they come in.

    neuron     synapse, membrane, threshold and reset: eqs. (3)-(5)
    phi        the table phi(k, m) of eqs. (11)-(14), the error summed over it, and the warm-up gradient
    surrogate  the other learning rules: surrogate gradients through time
    constants  gradients of time constants and thresholds
    recurrent  a layer whose spikes are fed back to it, and its gradient
    losses     van Rossum distance on the PSC (eq. (7)), squared spike-train error, spike count, softmax
    layers     full connection, convolution, pooling
    network    forward and backward of whole fully connected and convolutional networks
    packing    spike masks as bits in integer words

Source: W. Zhang and P. Li, "Temporal Spike Sequence Learning via Backpropagation for Deep Spiking Neural
Networks", NeurIPS 2020, arXiv 2002.10085.
"""

if not __name__.startswith("tssl_triton."):
    raise ImportError(f"this folder installs as tssl_triton.reference: import that instead of {__name__!r}")

from .constants import ConstantGradients, lif_constant_gradients, surrogate_constant_gradients
from .layers import Conv2d, Linear, Pool
from .losses import softmax_cross_entropy, spike_count, squared_spike_error, van_rossum
from .network import NetworkResult, run_network
from .neuron import State, Trace, lif_forward, psc
from .packing import pack_spikes, unpack_spikes
from .phi import lif_backward, lif_backward_from_psc, phi_table, psc_backward
from .recurrent import RecurrentGradients, recurrent_backward, recurrent_forward
from .surrogate import surrogate_backward, surrogate_slope

__all__ = [
    "ConstantGradients",
    "Conv2d",
    "Linear",
    "NetworkResult",
    "Pool",
    "RecurrentGradients",
    "State",
    "Trace",
    "lif_backward",
    "lif_backward_from_psc",
    "lif_constant_gradients",
    "lif_forward",
    "pack_spikes",
    "phi_table",
    "psc",
    "psc_backward",
    "recurrent_backward",
    "recurrent_forward",
    "run_network",
    "softmax_cross_entropy",
    "spike_count",
    "squared_spike_error",
    "surrogate_backward",
    "surrogate_constant_gradients",
    "surrogate_slope",
    "unpack_spikes",
    "van_rossum",
]
