"""Operators of neurons whose spikes are pooled at once, on a CPU: spikes of full size are never in memory.

A layer's spikes are the largest tensor of a convolutional network, and its pooling is memory traffic alone. Here the
neurons' loop works on a few planes of an image at a time: on their way out it packs the spikes and pools them, and on
the way back it spreads the pooled gradient over the windows, all within a processor's cache. The numbers are those of
`_ops.lif_forward` and `SumPool` one after the other, bit for bit. `tssl_triton.nn.prepared` calls them; on autograd's
graph they are a part of a layer's node.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tssl_triton.cpu import neuron as _cpu
from tssl_triton.cpu.sum_pooling import Sizes, SumPool, are_images, memory_format
from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import Surrogate

from . import neuron as _ops
from .layout import empty_rows, time_dense
from .registration import operator


def dense_images(current: Tensor) -> Tensor:
    """``current (T, B, C, H, W)`` itself where its images are dense, channels first or last, else a copy."""
    current = time_dense(current)
    return current if are_images(current[0]) else current.contiguous()


@operator
def lif_pool_forward(
    current: Tensor,
    state: Tensor | None,
    steps: int,
    keep: bool,
    carry: bool,
    window_height: int,
    window_width: int,
    scale: float,
    tau_mem: float,
    tau_syn: float,
    threshold: float,
    reset: str,
    max_slope: float,
    warmup: str,
    variant: str,
    window: str = "",
    width: float = 1.0,
    peak: float = 1.0,
    reset_gradient: str = "full",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `_ops.lif_forward`, with the pooled spikes ``(T, B, C, H', W')`` in the place of the spikes."""
    pool = SumPool((window_height, window_width), scale)
    pooled, words, checkpoints, new_state = outputs(current, steps, keep, carry, pool)
    _ops.fill_forward(
        _cpu.lif_forward,
        current,
        pooled,
        (words, checkpoints) if keep else None,
        state,
        new_state if carry else None,
        params=_ops.parameters(tau_mem, tau_syn, threshold, reset, max_slope, warmup, variant),
        synapse=True,
        pooling=(pool, Sizes.of(current[0])),
    )
    return pooled, words, checkpoints, new_state


@lif_pool_forward.register_fake
def _(
    current: Tensor,
    state: Tensor | None,
    steps: int,
    keep: bool,
    carry: bool,
    window_height: int,
    window_width: int,
    scale: float,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return outputs(current, steps, keep, carry, SumPool((window_height, window_width), scale))


def outputs(
    current: Tensor, steps: int, keep: bool, carry: bool, pool: SumPool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pooled spikes, packed spikes, checkpoints and new state, not yet filled."""
    images = current[0]
    pooled = pool.pooled(images, steps * len(images), current.dtype).unflatten(0, (steps, -1))
    return pooled, *_ops.beside_spikes(current, steps, keep, carry)


@operator
def lif_pool_backward(
    grad_pooled: Tensor,
    current: Tensor,
    words: Tensor,
    checkpoints: Tensor,
    state: Tensor | None,
    window_height: int,
    window_width: int,
    scale: float,
    tau_mem: float,
    tau_syn: float,
    threshold: float,
    reset: str,
    max_slope: float,
    warmup: str,
    variant: str,
    window: str = "",
    width: float = 1.0,
    peak: float = 1.0,
    reset_gradient: str = "full",
) -> Tensor:
    """Gradient with respect to ``current``, in its shape, of the gradient of the pooled spikes."""
    grad_current = empty_rows(current.shape[0], current, current.dtype)
    params = _ops.parameters(tau_mem, tau_syn, threshold, reset, max_slope, warmup, variant)
    pool = SumPool((window_height, window_width), scale)
    rule = _ops.told_rule(window, width, peak, reset_gradient)
    fill_backward(grad_pooled, current, words, checkpoints, state, grad_current, params=params, rule=rule, pool=pool)
    return grad_current


def fill_backward(
    grad_pooled: Tensor,
    current: Tensor,
    words: Tensor,
    checkpoints: Tensor,
    state: Tensor | None,
    grad_current: Tensor,
    *,
    params: LIFParameters,
    rule: Surrogate | None,
    pool: SumPool,
) -> None:
    """Write ``grad_current``, which may be ``current`` itself, from the gradient of pooled spikes."""
    grads = grad_pooled.flatten(0, 1).contiguous(memory_format=memory_format(current[0]))
    _ops.fill_backward(
        _cpu.lif_backward,
        grads.unflatten(0, grad_pooled.shape[:2]),
        current,
        words,
        checkpoints,
        state,
        grad_current,
        params=params,
        synapse=True,
        rule=rule,
        pooling=(pool, Sizes.of(current[0])),
    )


@lif_pool_backward.register_fake
def _(grad_pooled: Tensor, current: Tensor, *_: Any) -> Tensor:
    return empty_rows(current.shape[0], current, current.dtype)
