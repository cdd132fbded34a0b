"""PyTorch operators of neurons and spike trains: allocation, memory order, device and gradient.

==========================================  ============================================================
operator                                    kept for backward
==========================================  ============================================================
``lif_forward``, ``lif_backward``           y, packed spikes, checkpoints of a long run, state, constants
``recurrent_forward, recurrent_backward``   the same, the state before each window, and V
``psc_filter``                              nothing: it is linear
``spike_weighted, spike_weight_gradient``   y, packed spikes and checkpoints (Triton kernels only)
``pack``, ``unpack``                        not differentiable
==========================================  ============================================================

Each takes the constants of the neurons and their learning rule as one string (`tssl_triton.operators.settings`).
`SumPool` and the products from packed spikes are no operators: nodes of the layers call them.
"""

from tssl_triton.cpu import ActiveInputs, spike_product, spike_weight_gradient

from .autocast import autocast_dtype, set_autocast
from .devices import cpu_compiler, has_fused_kernel, implementation, interpreting, launchers, takes_spikes
from .first_order import first_order, no_second_derivative
from .fused import spike_weight_gradient as fused_weight_gradient
from .fused import spike_weighted
from .layout import time_dense
from .neuron import Forward, lif_backward, lif_forward, run_backward, run_forward
from .packed_spikes import PackedSpikes, Recipe, ghost
from .recurrent import recurrent_backward, recurrent_forward
from .registration import differentiable, is_traced, refuse_forward_mode
from .settings import Neuron
from .settings import write as write_settings
from .spike_trains import pack, psc_filter, unpack
from .sum_pool import SumPool

__all__ = [
    "ActiveInputs",
    "Forward",
    "Neuron",
    "PackedSpikes",
    "Recipe",
    "SumPool",
    "autocast_dtype",
    "cpu_compiler",
    "differentiable",
    "first_order",
    "fused_weight_gradient",
    "ghost",
    "has_fused_kernel",
    "implementation",
    "interpreting",
    "is_traced",
    "launchers",
    "lif_backward",
    "lif_forward",
    "no_second_derivative",
    "pack",
    "psc_filter",
    "recurrent_backward",
    "recurrent_forward",
    "refuse_forward_mode",
    "run_backward",
    "run_forward",
    "set_autocast",
    "spike_product",
    "spike_weight_gradient",
    "spike_weighted",
    "takes_spikes",
    "time_dense",
    "unpack",
    "write_settings",
]
