"""The operators: what they compute, what they allocate, how they differentiate.

An operator sees shapes and memory order; what happens per neuron is left to the implementation for its device:
`tssl_triton.kernels` (Triton) on a GPU, `tssl_triton.cpu.neuron` (loops in C++) on a CPU, or the Triton kernels on a
CPU
where ``TRITON_INTERPRET=1`` asks for them. A GPU tensor runs the Triton kernels or raises; it never falls back.

==================  ==================================================================================
operator            what backward keeps
==================  ==================================================================================
lif_forward         current, packed spikes, checkpoints where the run is longer than one window, state
lif_inference       not differentiable: spikes of one byte, where nothing is to be learnt
psc_filter          nothing: it is linear
pack, unpack        not differentiable
==================  ==================================================================================
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tssl_triton.cpu import compiler as _cpp
from tssl_triton.cpu import neuron as _cpu
from tssl_triton.kernels.layout import arithmetic_dtype, checkpoint_rows, word_count, word_dtype
from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import Surrogate

from .layout import empty_rows, flat, in_layout_of, time_dense
from .registration import operator


@functools.cache
def interpreting() -> bool:
    """Whether Triton kernels run on CPU tensors, under Triton's interpreter; for a whole process, as Triton decides."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def implementation(device: torch.device | str = "cpu") -> str:
    """Name of what runs on ``device``: ``"triton"``, ``"triton-interpreter"``, ``"native"`` or ``"eager"``."""
    if torch.device(device).type == "cuda":
        return "triton"
    return "triton-interpreter" if interpreting() else _cpp.implementation()


def on_loops(device: torch.device) -> bool:
    """Whether the loops for the CPU run there, or what stands for them where there is no compiler."""
    return device.type == "cpu" and not interpreting()


def _backend(device: torch.device) -> ModuleType:
    """The module whose functions fill the outputs of the operators below."""
    if device.type == "cuda" or interpreting():
        return importlib.import_module(".kernels.launch", __package__)
    return _cpu


# A schema carries numbers and strings; they are checked and made parameters of again once per setting, not per call.
parameters: Callable[..., LIFParameters] = functools.lru_cache(maxsize=256)(LIFParameters)


def backward_by(rule: Surrogate | None, device: torch.device) -> Callable[..., None]:
    """What walks neurons back by a learning rule on ``device``."""
    backend = _backend(device)
    if rule is None:
        return backend.lif_backward
    return functools.partial(backend.surrogate_backward, rule=rule)


def told_rule(window: str, width: float, peak: float, reset_gradient: str) -> Surrogate | None:
    """The learning rule that an operator was told; no window is TSSL-BP."""
    return Surrogate(window, width, peak, reset_gradient) if window else None


# --- leaky integrate-and-fire neuron ----------------------------------------------------------------------------
#
# `current` is (T, B, *), or (1, B, *) where one input serves all `steps` steps. Its gradient has its shape: summed
# over time in the second case. A state is the triple (i, v, a), stacked: (3, B, *). Forward is the same for every
# learning rule; backward is TSSL-BP's, or with a `window` that of `rules.Surrogate`, whose fields the last four are.


@operator
def lif_forward(
    current: Tensor,
    state: Tensor | None,
    steps: int,
    synapse: bool,
    keep: bool,
    carry: bool,
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
    """Spikes ``(T, B, *)``; packed spikes and checkpoints, empty unless ``keep``; new state, empty unless ``carry``."""
    params = parameters(tau_mem, tau_syn, threshold, reset, max_slope, warmup, variant)
    current = time_dense(current)
    spikes, words, checkpoints, new_state = lif_outputs(current, steps, keep, carry)
    if spikes.numel():
        beside = (words, checkpoints) if keep else None, state, new_state if carry else None
        run = _backend(current.device).lif_forward
        fill_forward(run, current, spikes, *beside, params=params, synapse=synapse)
    return spikes, words, checkpoints, new_state


@lif_forward.register_fake
def _(current: Tensor, state: Tensor | None, steps: int, synapse: bool, keep: bool, carry: bool, *_: Any) -> Any:
    return lif_outputs(time_dense(current), steps, keep, carry)


def fill_forward(
    run: Callable[..., None],
    current: Tensor,
    spikes: Tensor,
    kept: tuple[Tensor, Tensor] | None,
    state: Tensor | None,
    new_state: Tensor | None,
    **options: Any,
) -> None:
    """Have an implementation's ``run`` write ``spikes``, words and checkpoints ``kept`` for backward, and
    ``new_state``, those that are not None, from time-dense ``current``; it takes ``options`` as they are."""
    words, checkpoints = kept or (None, None)
    run(
        current=flat(current),
        spikes=flat(spikes),
        words=None if words is None else flat(words),
        checkpoints=checkpoints,
        state=None if state is None else flat(in_layout_of(state, current)),
        new_state=None if new_state is None else flat(new_state),
        **options,
    )


def fill_backward(
    run: Callable[..., None],
    grad_spikes: Tensor,
    current: Tensor,
    words: Tensor,
    checkpoints: Tensor,
    state: Tensor | None,
    grad_current: Tensor,
    **options: Any,
) -> None:
    """Have an implementation's ``run`` write ``grad_current`` from the gradient of spikes, in their layout, and what
    forward kept; it takes ``options`` as they are. On a CPU ``grad_current`` may be ``current`` itself."""
    run(
        grad_spikes=flat(grad_spikes),
        current=flat(current),
        words=flat(words),
        checkpoints=checkpoints,
        state=None if state is None else flat(in_layout_of(state, current)),
        grad_current=flat(grad_current),
        **options,
    )


def lif_outputs(current: Tensor, steps: int, keep: bool, carry: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return empty_rows(steps, current, current.dtype), *beside_spikes(current, steps, keep, carry)


def beside_spikes(current: Tensor, steps: int, keep: bool, carry: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Packed spikes, checkpoints and new state, not yet filled."""
    state_dtype = arithmetic_dtype(current.dtype)
    rows = checkpoint_rows(steps) if keep else 0
    return (
        empty_rows(word_count(steps) if keep else 0, current, word_dtype(steps)),
        torch.empty((rows, current[0].numel()), dtype=state_dtype, device=current.device),
        empty_rows(3 if carry else 0, current, state_dtype),
    )


@operator
def lif_backward(
    grad_spikes: Tensor,
    current: Tensor,
    words: Tensor,
    checkpoints: Tensor,
    state: Tensor | None,
    synapse: bool,
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
    """Gradient with respect to ``current``, in its shape: by TSSL-BP, or by the surrogate that ``window`` names."""
    params = parameters(tau_mem, tau_syn, threshold, reset, max_slope, warmup, variant)
    grad_current = empty_rows(current.shape[0], current, current.dtype)
    if grad_current.numel():
        run = backward_by(told_rule(window, width, peak, reset_gradient), current.device)
        kept = current, words, checkpoints, state
        grads = in_layout_of(grad_spikes, current)
        fill_backward(run, grads, *kept, grad_current, params=params, synapse=synapse)
    return grad_current


@lif_backward.register_fake
def _(grad_spikes: Tensor, current: Tensor, *_: Any) -> Tensor:
    return empty_rows(current.shape[0], current, current.dtype)


def _lif_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    current, state, _steps, synapse, _keep, _carry, *constants = inputs
    _, words, checkpoints, _ = output
    ctx.save_for_backward(time_dense(current), words, checkpoints, state)
    ctx.settings = (synapse, *constants)
    ctx.set_materialize_grads(False)


def _lif_gradient(ctx: Any, grad_spikes: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    current, words, checkpoints, state = ctx.saved_tensors
    grad_current = None
    if grad_spikes is not None:
        grad_current = lif_backward(grad_spikes, current, words, checkpoints, state, *ctx.settings)
    return (grad_current, *[None] * 16)


lif_forward.register_autograd(_lif_gradient, setup_context=_lif_setup)


@operator
def lif_inference(
    current: Tensor,
    state: Tensor | None,
    steps: int,
    synapse: bool,
    carry: bool,
    tau_mem: float,
    tau_syn: float,
    threshold: float,
    reset: str,
    max_slope: float,
    warmup: str,
    variant: str,
) -> tuple[Tensor, Tensor]:
    """Spikes ``(T, B, *)`` of one byte each, and the new state, empty unless ``carry``; nothing that backward needs."""
    params = parameters(tau_mem, tau_syn, threshold, reset, max_slope, warmup, variant)
    current = time_dense(current)
    spikes, new_state = _inference_outputs(current, steps, carry)
    if spikes.numel():
        beside = None, state, new_state if carry else None
        run = _backend(current.device).lif_forward
        fill_forward(run, current, spikes, *beside, params=params, synapse=synapse)
    return spikes, new_state


@lif_inference.register_fake
def _(current: Tensor, state: Tensor | None, steps: int, synapse: bool, carry: bool, *_: Any) -> tuple[Tensor, Tensor]:
    return _inference_outputs(time_dense(current), steps, carry)


def _inference_outputs(current: Tensor, steps: int, carry: bool) -> tuple[Tensor, Tensor]:
    spikes = empty_rows(steps, current, torch.uint8)
    return spikes, empty_rows(3 if carry else 0, current, arithmetic_dtype(current.dtype))


# --- postsynaptic current ---------------------------------------------------------------------------------------


@operator
def psc_filter(
    inputs: Tensor, state: Tensor | None, tau_syn: float, reverse: bool, carry: bool
) -> tuple[Tensor, Tensor]:
    """``a[t] = beta a[t-1] + s[t] / tau_syn`` from ``state (1, B, *)``, or its transpose in time.

    Beside it the last a, ``(1, B, *)``; empty unless ``carry``.
    """
    inputs = time_dense(inputs)
    outputs, final = _psc_outputs(inputs, carry)
    if outputs.numel():
        _backend(inputs.device).psc(
            inputs=flat(inputs),
            outputs=flat(outputs),
            state=None if state is None else flat(in_layout_of(state.to(final.dtype), inputs)),
            new_state=flat(final) if carry else None,
            tau_syn=tau_syn,
            reverse=reverse,
        )
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


# --- packing ----------------------------------------------------------------------------------------------------


@operator
def pack(spikes: Tensor, dtype: torch.dtype) -> Tensor:
    """Packed spikes ``(ceil(T / 32), B, *)``: bit ``t % 32`` of word ``t // 32`` says whether ``spikes[t] != 0``."""
    spikes = time_dense(spikes)
    words = empty_rows(word_count(len(spikes)), spikes, dtype)
    if words.numel():
        _backend(spikes.device).pack(spikes=flat(spikes), words=flat(words))
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
        _backend(words.device).unpack(words=flat(words), spikes=flat(spikes))
    return spikes


@unpack.register_fake
def _(words: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    return empty_rows(steps, time_dense(words), dtype)
