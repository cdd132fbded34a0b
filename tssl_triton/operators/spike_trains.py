"""Operators on spike trains: the synaptic filter, and packing into bits and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tssl_triton.kernels.layout import arithmetic_dtype, word_count

from . import devices
from .layout import empty_rows, in_layout_of, time_dense
from .registration import operator


@operator
def psc_filter(
    inputs: Tensor, state: Tensor | None, tau_syn: float, reverse: bool, carry: bool
) -> tuple[Tensor, Tensor]:
    """``a[t] = beta a[t-1] + s[t] / tau_syn`` from ``state (1, B, *)``, or its transpose in time.

    The second result is the last a, ``(1, B, *)``; empty unless ``carry``.
    """
    inputs = time_dense(inputs)
    outputs, final = _psc_outputs(inputs, carry)
    if outputs.numel():
        start = None if state is None else in_layout_of(state.to(final.dtype), inputs)
        psc = devices.launchers(inputs.device).psc
        psc(inputs, outputs, start, final if carry else None, tau_syn=tau_syn, reverse=reverse)
    return outputs, final


@psc_filter.register_fake
def _(inputs: Tensor, state: Tensor | None, tau_syn: float, reverse: bool, carry: bool) -> tuple[Tensor, Tensor]:
    return _psc_outputs(time_dense(inputs), carry)


def _psc_outputs(inputs: Tensor, carry: bool) -> tuple[Tensor, Tensor]:
    outputs = empty_rows(inputs.shape[0], inputs, inputs.dtype)
    return outputs, empty_rows(1 if carry else 0, inputs, arithmetic_dtype(inputs.dtype))


def _psc_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.tau_syn, ctx.reverse = inputs[2], inputs[3]
    ctx.set_materialize_grads(False)


def _psc_gradient(ctx: Any, grad_outputs: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_outputs is None:
        return (None,) * 5
    return psc_filter(grad_outputs, None, ctx.tau_syn, not ctx.reverse, False)[0], *[None] * 4


psc_filter.register_autograd(_psc_gradient, setup_context=_psc_setup)


@operator
def pack(spikes: Tensor, dtype: torch.dtype) -> Tensor:
    """Packed spikes ``(ceil(T / 32), B, *)``: bit ``t % 32`` of word ``t // 32`` is set where ``spikes[t] != 0``."""
    spikes = time_dense(spikes)
    words = empty_rows(word_count(len(spikes)), spikes, dtype)
    if words.numel():
        devices.launchers(spikes.device).pack(spikes, words)
    return words


@pack.register_fake
def _(spikes: Tensor, dtype: torch.dtype) -> Tensor:
    return empty_rows(word_count(len(spikes)), time_dense(spikes), dtype)


@operator
def unpack(words: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """Spikes ``(steps, B, *)`` of ``dtype``, 0 or 1, from packed words."""
    words = time_dense(words)
    spikes = empty_rows(steps, words, dtype)
    if spikes.numel():
        devices.launchers(words.device).unpack(words, spikes)
    return spikes


@unpack.register_fake
def _(words: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    return empty_rows(steps, time_dense(words), dtype)
