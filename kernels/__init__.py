"""Triton kernels and their launchers, one file per operation.

``layout``
    how spikes are packed into words and time is cut into windows (plain Python, no Triton).
``membrane``
    what the neuron's kernels share: the membrane's steps, its state in memory, its replay, constants that are learnt.
``neuron``
    the leaky integrate-and-fire neuron: forward, and the TSSL-BP backward.
``surrogate``
    backward by the other learning rules, STBP and SLAYER, for the same forward.
``synapse``
    the first-order synaptic filter and its transpose.
``packing``
    spike trains to packed words and back.
``fused``
    a layer in one kernel: packed spikes times weights, and the neurons that take the products.
``weight_gradient``
    the gradient of such a layer's weights, from packed spikes.
``geometry``, ``tiles``
    where a convolution reads (plain Python), and the blocks of products that both of them work in.
``plan``, ``launch``
    how many neurons and warps a program has, and all launchers under one name.

The neuron's launchers take tensors ``(T, *)`` whose steps are dense and in one memory order, ``(T, N)`` for short, and
write into outputs that the caller has allocated. They know nothing of autograd, modules or shapes beyond that;
`tssl_triton.operators.neuron` does. On a CPU `tssl_triton.cpu` has launchers of the same names.
Importing a kernel file needs Triton but no GPU; this package itself needs neither.
"""

if not __name__.startswith("tssl_triton."):
    raise ImportError("this folder is installed as `tssl_triton.kernels`: import that, not `kernels`")
