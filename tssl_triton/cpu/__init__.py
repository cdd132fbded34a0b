"""Neurons, pooling and products from packed spikes on a CPU: what `tssl_triton.kernels.launch` is on a GPU, in C++.

C++ is compiled on first use and cached on disk; without a compiler, eager PyTorch runs. Functions take plain CPU
tensors: the caller has made sure that no compiler, dispatch mode or functorch transform traces them.

Other rooms import these names only. The one exception is `tssl_triton.inspection.replay`, which takes single steps from
`tssl_triton.cpu.steps`.
"""

from .compiler import CompileError, compiler_command, implementation
from .neuron import lif_backward, lif_forward, pack, psc, surrogate_backward, unpack
from .spike_products import ActiveInputs, busy, spike_product, spike_weight_gradient, takes_spikes
from .sum_pooling import count_pool, spread_pool, sum_pool

__all__ = [
    "ActiveInputs",
    "CompileError",
    "busy",
    "compiler_command",
    "count_pool",
    "implementation",
    "lif_backward",
    "lif_forward",
    "pack",
    "psc",
    "spike_product",
    "spike_weight_gradient",
    "spread_pool",
    "sum_pool",
    "surrogate_backward",
    "takes_spikes",
    "unpack",
]
