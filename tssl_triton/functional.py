"""Functions on tensors ``(T, B, *features)``: the spiking neuron, its postsynaptic current, packed spikes."""

from __future__ import annotations

from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from tssl_triton._checks import (
    check_broadcastable,
    check_count,
    check_device,
    check_dtype,
    check_flag,
    check_like,
    check_rank,
    check_sequence,
)
from tssl_triton.encoding import StaticInput
from tssl_triton.kernels.layout import WORD, arithmetic_dtype, word_count
from tssl_triton.operators import (
    cpu_compiler,
    differentiable,
    implementation,
    lif_forward,
    pack,
    psc_filter,
    time_dense,
    unpack,
    write_settings,
)
from tssl_triton.parameters import CONSTANTS, LIFParameters, checked_time_constant
from tssl_triton.rules import Rule, checked_rule

__all__ = ["LIFConstants", "LIFState", "cpu_compiler", "implementation", "lif", "pack_spikes", "psc", "unpack_spikes"]

_DEFAULTS = LIFParameters()


class LIFState(NamedTuple):
    """The state of a layer of neurons between two windows of time; each ``(B, *features)``, float32.

    It is float64 for a float64 input.

    Args:
        current: synaptic current i after the last step.
        membrane: membrane potential v after the last step and its reset.
        psc: postsynaptic current a of the neurons' own spikes; it decides where warm-up applies.
    """

    current: Tensor
    membrane: Tensor
    psc: Tensor


class LIFConstants(NamedTuple):
    """Constants of neurons as tensors that receive gradients; each broadcasts to ``(B, *features)``.

    Args:
        tau_mem: membrane time constants in time steps, >= 1; None, here and below, takes that of the `LIFParameters`.
        tau_syn: synaptic time constants in time steps, >= 1.
        threshold: firing thresholds, > 0.

    Ranges are not checked, as reading values would wait for the device. `LearnableConstants` stays within them.
    """

    tau_mem: Tensor | None = None
    tau_syn: Tensor | None = None
    threshold: Tensor | None = None


@overload
def lif(
    current: Tensor | StaticInput,
    params: LIFParameters = ...,
    *,
    state: LIFState | None = ...,
    synapse: bool = ...,
    return_state: Literal[False] = ...,
    rule: Rule | str = ...,
    learnt: LIFConstants | None = ...,
    dtype: torch.dtype | None = ...,
) -> Tensor: ...
@overload
def lif(
    current: Tensor | StaticInput,
    params: LIFParameters = ...,
    *,
    state: LIFState | None = ...,
    synapse: bool = ...,
    return_state: Literal[True],
    rule: Rule | str = ...,
    learnt: LIFConstants | None = ...,
    dtype: torch.dtype | None = ...,
) -> tuple[Tensor, LIFState]: ...
def lif(
    current: Tensor | StaticInput,
    params: LIFParameters = _DEFAULTS,
    *,
    state: LIFState | None = None,
    synapse: bool = True,
    return_state: bool = False,
    rule: Rule | str = "tssl",
    learnt: LIFConstants | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, LIFState]:
    """Spikes of leaky integrate-and-fire neurons, with the gradient of TSSL-BP or of another learning rule. ::

        i[t] = beta i[t-1] + y[t] / tau_syn          eq. (3); i[t] = y[t] with synapse=False
        u[t] = alpha v[t-1] + i[t]                   eq. (4)
        s[t] = 1 if u[t] > threshold else 0          eq. (5)
        v[t] = u[t] (1 - s[t])                       or u[t] - threshold s[t] with reset="subtract"

    Args:
        current: y, the weighted input ``(T, B, *features)``; float32, float16 or bfloat16 (arithmetic and state are
            float32 for each) or float64. A `StaticInput` stands for the same y at every step.
        params: constants of the neuron and of its gradient.
        state: the state to start from, as a window of a longer run does; None is a neuron at rest.
        synapse: whether the synapse filters y; with False y is the synaptic current i.
        return_state: whether to return the state after the last step too.
        rule: the learning rule: ``"tssl"``, ``"stbp"``, ``"slayer"``, or a rule of `tssl_triton.rules` such as
            ``STBP(surrogate="arctan")``. Spikes and state are the same with each.
        learnt: time constants and thresholds as tensors, which replace those of ``params`` and receive gradients by
            the learning rule (docs/mathematics.md); the kernels read 12 bytes more per neuron.
        dtype: of the spikes; None is that of ``current``. ``torch.bool`` and ``torch.uint8`` are for inference, without
            gradients: one byte per neuron-step is written instead of two to five, and nothing is kept.

    Returns:
        The spike train ``(T, B, *features)``, 0 and 1 in ``dtype`` and the memory order of ``current``; with
        ``return_state`` the pair of it and a `LIFState`.

    The gradient of TSSL-BP is that of the paper, eqs. (11)-(14), not of autograd. It is exact within one call. States
    carry no gradient under any rule (truncated backpropagation through time).

    Raises:
        TypeError, ValueError: for a wrong rank, dtype or device, T = 0, a state of another shape, an unknown rule, or
            spikes of one byte where a gradient is asked for.
    """
    if not isinstance(params, LIFParameters):
        raise TypeError(f"params must be LIFParameters, got {type(params).__name__}")
    if isinstance(current, StaticInput):
        y, steps = check_sequence("current", current.values[None]), current.steps
    else:
        y = check_sequence("current", current)
        steps = len(y)
    check_flag("synapse", synapse)
    settings, start = write_settings(params, checked_rule(rule)), stacked(state, y)
    as_bytes = dtype is not None and dtype != y.dtype
    if as_bytes:
        _check_inference(dtype, y, learnt)
    constants = None if learnt is None else stacked_constants(learnt, params, y)
    keep = differentiable(y, constants)
    spikes, _, _, new_state = lif_forward(
        time_dense(y), constants, start, settings, steps, synapse, keep, return_state, torch.uint8 if as_bytes else None
    )
    if dtype is not None and as_bytes:
        spikes = spikes.view(dtype)
    return (spikes, LIFState(*new_state.detach().unbind(0))) if return_state else spikes


def _check_inference(dtype: object, y: Tensor, learnt: LIFConstants | None) -> None:
    """Raise unless spikes of ``dtype`` can be had of ``y``."""
    if dtype not in (torch.bool, torch.uint8):
        raise TypeError(f"dtype must be None, that of current, {y.dtype}, torch.bool or torch.uint8, got {dtype}")
    if differentiable(y):
        raise ValueError(
            f"dtype must be None where a gradient is asked for, as integers have none, got {dtype}; call lif under "
            "torch.no_grad(), or convert the spikes afterwards"
        )
    if learnt is not None:
        raise ValueError(f"dtype must be None with learnt constants, got {dtype}; convert the spikes afterwards")


def stacked(state: LIFState | None, y: Tensor) -> Tensor | None:
    """The state of the neurons of ``y (T, B, *)`` as operators take it, ``(3, B, *)``, without gradient."""
    if state is None:
        return None
    if not isinstance(state, tuple) or len(state) != 3:
        raise TypeError(f"state must be a LIFState (current, membrane, psc), got {type(state).__name__}")
    shape = tuple(y.shape[1:])
    parts = (check_like(f"state.{n}", x, shape, y.device) for n, x in zip(LIFState._fields, state, strict=True))
    return torch.stack([part.detach() for part in parts]).to(arithmetic_dtype(y.dtype))


def stacked_constants(learnt: LIFConstants, params: LIFParameters, y: Tensor) -> Tensor:
    """Constants of the neurons of ``y (T, B, *)`` as operators take them, ``(3, B, *)``, on autograd's graph."""
    if not isinstance(learnt, LIFConstants):
        raise TypeError(f"learnt must be LIFConstants, got {type(learnt).__name__}")
    shape, dtype = tuple(y.shape[1:]), arithmetic_dtype(y.dtype)
    rows = []
    for name, given in zip(CONSTANTS, learnt, strict=True):
        if given is None:
            rows.append(torch.full(shape, getattr(params, name), dtype=dtype, device=y.device))
            continue
        check_broadcastable(f"learnt.{name}", given, shape, y.device)
        rows.append(given.to(dtype).expand(shape))
    return torch.stack(rows)


@overload
def psc(spikes: Tensor, tau_syn: float, state: Tensor | None = ..., return_state: Literal[False] = ...) -> Tensor: ...
@overload
def psc(
    spikes: Tensor, tau_syn: float, state: Tensor | None = ..., *, return_state: Literal[True]
) -> tuple[Tensor, Tensor]: ...
def psc(
    spikes: Tensor, tau_syn: float, state: Tensor | None = None, return_state: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Postsynaptic current of spike trains, ``a[t] = (1 - 1/tau_syn) a[t-1] + s[t] / tau_syn``.

    Args:
        spikes: ``(T, B, *)``, or any real-valued sequence: the filter is linear.
        tau_syn: synaptic time constant in time steps, >= 1.
        state: a ``(B, *)`` before the first step, None for 0; it carries no gradient.
        return_state: whether to return a after the last step too, ``(B, *)``, without gradient.

    Returns:
        a, in the shape, dtype and memory order of ``spikes``.

    Raises:
        TypeError, ValueError: for a wrong rank, dtype, device, time constant or state.
    """
    check_sequence("spikes", spikes, lowest_rank=1)
    tau_syn = checked_time_constant("tau_syn", tau_syn)
    start = None
    if state is not None:
        start = check_like("state", state, tuple(spikes.shape[1:]), spikes.device).detach()[None]
    current, final = psc_filter(time_dense(spikes), start, tau_syn, False, return_state)
    return (current, final[0].detach()) if return_state else current


def pack_spikes(spikes: Tensor, dtype: torch.dtype = torch.int32) -> Tensor:
    """Spike trains as bits, 32 steps to a word.

    Args:
        spikes: ``(T, B, *)`` of any dtype; a step counts as a spike where it is not 0.
        dtype: integer type of a word. int32 always fits; int16 does for T <= 16 and uint8 for T <= 8.

    Returns:
        Words ``(ceil(T / 32), B, *)``; bit ``t % 32`` of word ``t // 32`` is step t.
    """
    if not isinstance(spikes, Tensor):
        raise TypeError(f"spikes must be a tensor (T, B, *), got {type(spikes).__name__}")
    check_rank("spikes", spikes.shape, 1)
    check_device("spikes", spikes.device)
    bits = {torch.int32: WORD, torch.int16: 16, torch.uint8: 8}.get(dtype)
    if bits is None:
        raise TypeError(f"dtype must be torch.int32, torch.int16 or torch.uint8, got {dtype}")
    if len(spikes) > bits and dtype != torch.int32:
        raise ValueError(f"dtype {dtype} holds at most {bits} steps, got T = {len(spikes)}; use torch.int32")
    return pack(spikes.detach(), dtype)


def unpack_spikes(words: Tensor, steps: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The spike trains ``(steps, B, *)``, 0 and 1 in ``dtype``, that `pack_spikes` packed into ``words``."""
    if not isinstance(words, Tensor):
        raise TypeError(f"words must be a tensor (ceil(steps / 32), B, *), got {type(words).__name__}")
    if words.dtype not in (torch.int32, torch.int16, torch.uint8):
        raise TypeError(f"words must be torch.int32, torch.int16 or torch.uint8, got {words.dtype}")
    check_rank("words", words.shape, 1)
    check_device("words", words.device)
    steps = check_count("steps", steps)
    check_dtype("dtype", dtype)
    bits = 8 * words.element_size()
    if len(words) != word_count(steps) or steps > bits * len(words):
        raise ValueError(f"words must hold {steps} steps, got {len(words)} words of {bits} bits")
    return unpack(words, steps, dtype)
