"""Operators of neurons whose spikes are pooled at once, on a CPU: spikes of full size are never in memory.

A layer's spikes are the largest tensor of a convolutional network, and its pooling is memory traffic alone. Here the
neurons' loop works on a few planes of an image at a time: on their way out it packs the spikes and pools them, and on
the way back it spreads the pooled gradient over the windows, all within a processor's cache. The numbers are those of
`_ops.lif_forward` and `SumPool` one after the other, bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _cpu, _ops, _packed
from ._layout import empty_rows, time_dense
from ._operators import operator
from ._pooling import REALS, Sizes, SumPool, are_images, memory_format
from .encoding import StaticInput
from .functional import LIFState, constants, stacked
from .parameters import LIFParameters
from .rules import Rule


def fits(current: Tensor, pool: SumPool) -> bool:
    """Whether the operators below take such an input ``(T, B, C, H, W)``; under a compiler all is left to it."""
    if torch.compiler.is_compiling() or _ops.interpreting() or current.device.type != "cpu" or current.dim() != 5:
        return False
    large_enough = current.shape[3] >= pool.size[0] and current.shape[4] >= pool.size[1]
    return current.dtype in REALS and large_enough and are_images(current[0])


def pooled_lif(
    current: Tensor | StaticInput, params: LIFParameters, state: LIFState | None, rule: Rule, pool: SumPool, carry: bool
) -> tuple[Tensor, LIFState | None]:
    """`lif` and then ``pool``, for an input that `fits`; with ``carry`` the state after it too."""
    y, steps = (current.values[None], current.steps) if isinstance(current, StaticInput) else (current, len(current))
    keep = torch.is_grad_enabled() and y.requires_grad
    pooled, words, _, new_state = lif_pool_forward(
        time_dense(y), stacked(state, y), steps, keep, carry, *pool.size, pool.scale, *constants(params, rule)
    )
    if keep:
        _packed.remember(pooled, _packed.Packed(words.detach(), steps).followed_by(pool))
    return pooled, LIFState(*new_state.detach().unbind(0)) if carry else None


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
    pooled, words, checkpoints, new_state = _outputs(current, steps, keep, carry, pool)
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
    return _outputs(current, steps, keep, carry, SumPool((window_height, window_width), scale))


def _outputs(
    current: Tensor, steps: int, keep: bool, carry: bool, pool: SumPool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
    grads = grad_pooled.flatten(0, 1).contiguous(memory_format=memory_format(current[0]))
    _ops.fill_backward(
        _cpu.lif_backward,
        grads.unflatten(0, grad_pooled.shape[:2]),
        current,
        words,
        checkpoints,
        state,
        grad_current,
        params=_ops.parameters(tau_mem, tau_syn, threshold, reset, max_slope, warmup, variant),
        synapse=True,
        rule=_ops.told_rule(window, width, peak, reset_gradient),
        pooling=(SumPool((window_height, window_width), scale), Sizes.of(current[0])),
    )
    return grad_current


@lif_pool_backward.register_fake
def _(grad_pooled: Tensor, current: Tensor, *_: Any) -> Tensor:
    return empty_rows(current.shape[0], current, current.dtype)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    current, state, _steps, _keep, _carry, *settings = inputs
    _, words, checkpoints, _ = output
    ctx.save_for_backward(current, words, checkpoints, state)
    ctx.settings = settings
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grad_pooled: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    grad_current = None
    if grad_pooled is not None:
        grad_current = lif_pool_backward(grad_pooled, *ctx.saved_tensors, *ctx.settings)
    return (grad_current, *[None] * 18)


lif_pool_forward.register_autograd(_gradient, setup_context=_setup)
