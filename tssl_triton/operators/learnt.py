"""Operators of neurons whose constants are learnt.

They are those of `tssl_triton.operators.neuron` with one tensor more, the constants, and its gradient. Elsewhere
constants are
compiled into a kernel; here the same kernels and loops read a row of each. Backward keeps what it keeps there, and the
constants.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tssl_triton.parameters import LIFParameters

from . import neuron as _ops
from .layout import empty_rows, flat, in_layout_of, time_dense
from .neuron import backward_by, fill_backward, fill_forward, lif_outputs, parameters, told_rule
from .registration import operator


def options(reset: str, max_slope: float, warmup: str, variant: str) -> LIFParameters:
    """`LIFParameters` beside learnt constants, which stand for its numbers."""
    return parameters(reset=reset, max_slope=max_slope, warmup=warmup, variant=variant)


@operator
def learnt_lif_forward(
    current: Tensor,
    constants: Tensor,
    state: Tensor | None,
    steps: int,
    synapse: bool,
    keep: bool,
    carry: bool,
    reset: str,
    max_slope: float,
    warmup: str,
    variant: str,
    window: str = "",
    width: float = 1.0,
    peak: float = 1.0,
    reset_gradient: str = "full",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `_ops.lif_forward`; ``constants (3, B, *)`` are tau_mem, tau_syn and threshold of each neuron."""
    current = time_dense(current)
    spikes, words, checkpoints, new_state = lif_outputs(current, steps, keep, carry)
    if spikes.numel():
        fill_forward(
            _ops._backend(current.device).lif_forward,
            current,
            spikes,
            (words, checkpoints) if keep else None,
            state,
            new_state if carry else None,
            params=options(reset, max_slope, warmup, variant),
            synapse=synapse,
            constants=flat(in_layout_of(constants, current)),
        )
    return spikes, words, checkpoints, new_state


@learnt_lif_forward.register_fake
def _(
    current: Tensor,
    constants: Tensor,
    state: Tensor | None,
    steps: int,
    synapse: bool,
    keep: bool,
    carry: bool,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return lif_outputs(time_dense(current), steps, keep, carry)


@operator
def learnt_lif_backward(
    grad_spikes: Tensor,
    current: Tensor,
    constants: Tensor,
    words: Tensor,
    checkpoints: Tensor,
    state: Tensor | None,
    synapse: bool,
    reset: str,
    max_slope: float,
    warmup: str,
    variant: str,
    window: str = "",
    width: float = 1.0,
    peak: float = 1.0,
    reset_gradient: str = "full",
) -> tuple[Tensor, Tensor]:
    """Gradients with respect to ``current`` and ``constants``, in their shapes."""
    grad_current = empty_rows(current.shape[0], current, current.dtype)
    grad_constants = empty_rows(3, current, constants.dtype)
    if grad_current.numel():
        fill_backward(
            backward_by(told_rule(window, width, peak, reset_gradient), current.device),
            in_layout_of(grad_spikes, current),
            current,
            words,
            checkpoints,
            state,
            grad_current,
            params=options(reset, max_slope, warmup, variant),
            synapse=synapse,
            constants=flat(in_layout_of(constants, current)),
            grad_constants=flat(grad_constants),
        )
    return grad_current, grad_constants


@learnt_lif_backward.register_fake
def _(grad_spikes: Tensor, current: Tensor, constants: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    grad_current = empty_rows(current.shape[0], current, current.dtype)
    return grad_current, empty_rows(3, current, constants.dtype)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    current, constants, state, _steps, synapse, _keep, _carry, *options = inputs
    _, words, checkpoints, _ = output
    ctx.save_for_backward(time_dense(current), constants, words, checkpoints, state)
    ctx.settings = (synapse, *options)
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grad_spikes: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    grads: tuple[Tensor | None, Tensor | None] = (None, None)
    if grad_spikes is not None:
        grads = learnt_lif_backward(grad_spikes, *ctx.saved_tensors, *ctx.settings)
    return (*grads, *[None] * 13)


learnt_lif_forward.register_autograd(_gradient, setup_context=_setup)
