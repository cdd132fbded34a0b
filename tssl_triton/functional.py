"""Functions on tensors ``(T, B, *features)``: the spiking neuron, its postsynaptic current, packed spikes."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, overload

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
from tssl_triton.cpu.learnt import CONSTANTS
from tssl_triton.encoding import StaticInput
from tssl_triton.kernels.layout import WORD, arithmetic_dtype, word_count
from tssl_triton.operators import learnt as _learnt_ops
from tssl_triton.operators import neuron as _ops
from tssl_triton.operators import records as _packed
from tssl_triton.operators.layout import time_dense
from tssl_triton.operators.neuron import implementation
from tssl_triton.operators.registration import differentiable
from tssl_triton.parameters import LIFParameters, checked_time_constant
from tssl_triton.rules import DEFAULT, Rule, checked_rule

__all__ = ["LIFConstants", "LIFState", "implementation", "lif", "pack_spikes", "psc", "unpack_spikes"]

_DEFAULTS = LIFParameters()


class LIFState(NamedTuple):
    """What a layer of neurons carries from one window of time to the next; each ``(B, *features)``, float32.

    (float64 for a float64 input.)

    Args:
        current: synaptic current i after the last step.
        membrane: membrane potential v after the last step and its reset.
        psc: postsynaptic current a that the neurons' own spikes have left; it decides where warm-up applies.
    """

    current: Tensor
    membrane: Tensor
    psc: Tensor


class LIFConstants(NamedTuple):
    """Constants of neurons as tensors that gradients go to; each broadcasts to ``(B, *features)``.

    Args:
        tau_mem: membrane time constants in time steps, >= 1; None takes that of the `LIFParameters`, as below.
        tau_syn: synaptic time constants in time steps, >= 1.
        threshold: firing thresholds, > 0.

    Ranges are not checked: to look at a tensor's values is to wait for the device. `LearnableConstants` keeps to them.
    """

    tau_mem: Tensor | None = None
    tau_syn: Tensor | None = None
    threshold: Tensor | None = None


@overload
def lif(
    current: Tensor | StaticInput,
    params: LIFParameters = ...,
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
    state: LIFState | None = ...,
    synapse: bool = ...,
    *,
    return_state: Literal[True],
    rule: Rule | str = ...,
    learnt: LIFConstants | None = ...,
    dtype: torch.dtype | None = ...,
) -> tuple[Tensor, LIFState]: ...
@overload
def lif(
    current: Tensor | StaticInput,
    params: LIFParameters,
    state: LIFState | None,
    synapse: bool,
    return_state: bool,
    rule: Rule | str = ...,
    learnt: LIFConstants | None = ...,
    dtype: torch.dtype | None = ...,
) -> Tensor | tuple[Tensor, LIFState]: ...
def lif(
    current: Tensor | StaticInput,
    params: LIFParameters = _DEFAULTS,
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
        state: where a window of a longer run starts from; None is a neuron at rest.
        synapse: whether y is filtered by the synapse; False takes it as the synaptic current i itself.
        return_state: whether to return the state after the last step too.
        rule: the learning rule: ``"tssl"``, ``"stbp"``, ``"slayer"``, or one of `tssl_triton.rules` with settings of
            its own, such as ``STBP(surrogate="arctan")``. Spikes and state are the same with each.
        learnt: time constants and thresholds as tensors, which stand for those of ``params`` and receive gradients by
            the learning rule (docs/mathematics.md); the same kernels read them, 12 bytes per neuron.
        dtype: of the spikes: None is that of ``current``. ``torch.bool`` and ``torch.uint8`` are for inference, where
            no gradient is asked for: one byte per neuron-step is written instead of two to five, and nothing is kept.

    Returns:
        The spike train ``(T, B, *features)``, 0 and 1 in ``dtype`` and the memory order of ``current``; with
        ``return_state`` the pair of it and a `LIFState`.

    The gradient of TSSL-BP is that of the paper, eqs. (11)-(14), not of autograd: it is exact within one call, and
    stops at its ends. States carry no gradient (truncated backpropagation through time), whichever the rule.

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
    start, settings = stacked(state, y), constants(params, checked_rule(rule))
    if dtype is not None and dtype != y.dtype:
        _check_inference(dtype, y, learnt)
        spikes, new_state = _ops.lif_inference(time_dense(y), start, steps, synapse, return_state, *constants(params))
        spikes = spikes.view(dtype)
        return (spikes, LIFState(*new_state.unbind(0))) if return_state else spikes
    if learnt is None:
        keep = differentiable(y)
        spikes, words, _, new_state = _ops.lif_forward(
            time_dense(y), start, steps, synapse, keep, return_state, *settings
        )
    else:
        rows = stacked_constants(learnt, params, y)
        keep = differentiable(y, rows)
        spikes, words, _, new_state = _learnt_ops.learnt_lif_forward(
            time_dense(y), rows, start, steps, synapse, keep, return_state, *settings[len(CONSTANTS) :]
        )
    if keep:
        _packed.remember(spikes, _packed.Packed(words.detach(), steps))
    if return_state:
        return spikes, LIFState(*new_state.detach().unbind(0))
    return spikes


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


def constants(params: LIFParameters, rule: Rule = DEFAULT) -> tuple[Any, ...]:
    """The parameters, and what the learning rule adds to them, as operators take them; those of `CONSTANTS` first."""
    p = params
    neuron = p.tau_mem, p.tau_syn, p.threshold, p.reset, p.max_slope, p.warmup, p.variant
    return (*neuron, *(rule.surrogate_gradient or ()))


def stacked(state: LIFState | None, y: Tensor) -> Tensor | None:
    """A state for the neurons of ``y (T, B, *)`` as the operators take it, ``(3, B, *)``, without gradient."""
    if state is None:
        return None
    if not isinstance(state, tuple) or len(state) != 3:
        raise TypeError(f"state must be a LIFState (current, membrane, psc), got {type(state).__name__}")
    shape = tuple(y.shape[1:])
    parts = (check_like(f"state.{n}", x, shape, y.device) for n, x in zip(LIFState._fields, state, strict=True))
    return torch.stack([part.detach() for part in parts]).to(arithmetic_dtype(y.dtype))


def stacked_constants(learnt: LIFConstants, params: LIFParameters, y: Tensor) -> Tensor:
    """Constants for the neurons of ``y (T, B, *)`` as the operators take them, ``(3, B, *)``, on autograd's graph."""
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
    current, final = _ops.psc_filter(time_dense(spikes), start, tau_syn, False, return_state)
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
    check_rank("spikes", spikes, 1)
    check_device("spikes", spikes.device)
    bits = {torch.int32: WORD, torch.int16: 16, torch.uint8: 8}.get(dtype)
    if bits is None:
        raise TypeError(f"dtype must be torch.int32, torch.int16 or torch.uint8, got {dtype}")
    if len(spikes) > bits and dtype != torch.int32:
        raise ValueError(f"dtype {dtype} holds at most {bits} steps, got T = {len(spikes)}; use torch.int32")
    return _ops.pack(spikes.detach(), dtype)


def unpack_spikes(words: Tensor, steps: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The spike trains ``(steps, B, *)``, 0 and 1 in ``dtype``, that `pack_spikes` packed into ``words``."""
    if not isinstance(words, Tensor):
        raise TypeError(f"words must be a tensor (ceil(steps / 32), B, *), got {type(words).__name__}")
    if words.dtype not in (torch.int32, torch.int16, torch.uint8):
        raise TypeError(f"words must be torch.int32, torch.int16 or torch.uint8, got {words.dtype}")
    check_rank("words", words, 1)
    check_device("words", words.device)
    steps = check_count("steps", steps)
    check_dtype("dtype", dtype)
    bits = 8 * words.element_size()
    if len(words) != word_count(steps) or steps > bits * len(words):
        raise ValueError(f"words must hold {steps} steps, got {len(words)} words of {bits} bits")
    return _ops.unpack(words, steps, dtype)
