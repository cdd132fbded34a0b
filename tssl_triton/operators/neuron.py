"""The leaky integrate-and-fire neuron as operators: allocation, memory order and gradient.

``lif_forward`` and ``lif_backward`` are for autograd, compilers and dispatch modes. `run_forward` and `run_backward`
are the same computation without the registration; a layer's node calls these.

For backward are kept: y (the current), the packed spikes, the state before each window of a long run but the first
(checkpoints), the initial state, and learnt constants. Forward is the same for every learning rule.

Shapes: ``current`` is (T, B, *), or (1, B, *) where one input serves all ``steps`` steps; its gradient then is the sum
over time. A state is the triple (i, v, a), stacked: (3, B, *). Learnt ``constants`` are (tau_mem, tau_syn, threshold),
stacked: (3, B, *); they replace those of the neuron's settings.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from tssl_triton._torch_private import profiling
from tssl_triton.kernels.layout import arithmetic_dtype, checkpoint_rows, word_count, word_dtype

from . import devices, settings
from .layout import empty_rows, in_layout_of, time_dense
from .registration import operator
from .settings import Neuron


class Forward(NamedTuple):
    """Results of a run; None for what was not asked for."""

    spikes: Tensor | None  # (T, B, *)
    words: Tensor | None  # packed spikes, (words, B, *)
    checkpoints: Tensor | None  # (3 (windows - 1), B, *); None for a run of one window too
    state: Tensor | None  # after the last step, (3, B, *)


def run_forward(
    current: Tensor,
    constants: Tensor | None,
    state: Tensor | None,
    neuron: Neuron,
    steps: int,
    *,
    synapse: bool = True,
    keep: bool,
    carry: bool,
    dense: bool = True,
    spike_dtype: torch.dtype | None = None,
) -> Forward:
    """Run the neurons on a time-dense ``current``.

    ``keep`` asks for packed spikes and checkpoints, ``carry`` for the state afterwards. Without ``dense`` the spikes
    may be left out, where an implementation can write the packed ones alone.
    """
    size = current.shape, current.stride(), current.dtype, current.device
    launch, outputs = _prepared(*size, steps, keep, carry, dense, spike_dtype)
    found = _allocated(outputs, current.device)
    if launch is None:
        return found
    options: dict[str, Any] = {"params": neuron.params, "synapse": synapse}
    if found.spikes is None:
        options["steps"] = steps
    if constants is not None:
        options["constants"] = in_layout_of(constants, current)
    if state is not None:
        state = in_layout_of(state, current)
    with record_function("tssl_triton::lif_forward") if profiling() else _NO_RECORD:
        launch(current, *found[:3], state, found.state, **options)
    return found


_NO_RECORD = nullcontext()

Output = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Shape, strides and type of a tensor to allocate."""


@lru_cache(maxsize=256)
def _prepared(
    shape: torch.Size,
    stride: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    steps: int,
    keep: bool,
    carry: bool,
    dense: bool,
    spike_dtype: torch.dtype | None,
) -> tuple[Callable[..., None] | None, list[Output | None]]:
    """The launcher of a run, None where there is no neuron, and the outputs as of `Forward`, None where not asked for.

    It depends on the values of its arguments alone, and so is computed once for each size of a network.
    """
    dense = dense or not devices.uses_loops(device)
    like = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
    launch = devices.launchers(device).lif_forward if like.numel() else None
    return launch, _outputs(like, steps, keep or not dense, carry, dense, spike_dtype)


def _outputs(
    current: Tensor, steps: int, keep: bool, carry: bool, dense: bool, spike_dtype: torch.dtype | None
) -> list[Output | None]:
    accumulated = arithmetic_dtype(current.dtype)
    checkpoints = checkpoint_rows(steps) if keep else 0

    def rows(count: int, dtype: torch.dtype) -> Output:
        out = empty_rows(count, current, dtype)
        return tuple(out.shape), out.stride(), dtype

    return [
        rows(steps, spike_dtype or current.dtype) if dense else None,
        rows(word_count(steps), word_dtype(steps)) if keep else None,
        rows(checkpoints, accumulated) if checkpoints else None,
        rows(3, accumulated) if carry else None,
    ]


def _allocated(outputs: list[Output | None], device: torch.device) -> Forward:
    return Forward(*[x and torch.empty_strided(x[0], x[1], dtype=x[2], device=device) for x in outputs])


def run_backward(
    grad_spikes: Tensor,
    current: Tensor,
    constants: Tensor | None,
    words: Tensor,
    checkpoints: Tensor | None,
    state: Tensor | None,
    neuron: Neuron,
    *,
    synapse: bool = True,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of ``current``, written over it with ``overwrite``, and of learnt ``constants``."""
    grad_current = current if overwrite else empty_rows(current.shape[0], current, current.dtype)
    grad_constants = None
    options: dict[str, Any] = {}
    if constants is not None:
        grad_constants = empty_rows(3, current, constants.dtype)
        options = {"constants": in_layout_of(constants, current), "grad_constants": grad_constants}
    if current.numel():
        words = in_layout_of(words, current)
        checkpoints = None if checkpoints is None else in_layout_of(checkpoints, current)
        state = None if state is None else in_layout_of(state, current)
        given = in_layout_of(grad_spikes, current), current, words, checkpoints, state, grad_current
        with record_function("tssl_triton::lif_backward") if profiling() else _NO_RECORD:
            walk_back(*given, neuron, synapse=synapse, **options)
    return grad_current, grad_constants


def walk_back(
    grad_spikes: Tensor,
    current: Tensor,
    words: Tensor,
    checkpoints: Tensor | None,
    state: Tensor | None,
    grad_current: Tensor,
    neuron: Neuron,
    **options: Any,
) -> None:
    """Fill ``grad_current`` by the learning rule of ``neuron``; ``options`` go to the launcher."""
    given = grad_spikes, current, words, checkpoints, state, grad_current
    implementation, surrogate = devices.launchers(current.device), neuron.rule.surrogate_gradient
    if surrogate is None:
        implementation.lif_backward(*given, params=neuron.params, **options)
    else:
        implementation.surrogate_backward(*given, params=neuron.params, rule=surrogate, **options)


# --- the operators ----------------------------------------------------------------------------------------------


@operator
def lif_forward(
    current: Tensor,
    constants: Tensor | None,
    state: Tensor | None,
    neuron: str,
    steps: int,
    synapse: bool,
    keep: bool,
    carry: bool,
    spike_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Spikes ``(T, B, *)``; packed spikes and checkpoints, empty unless ``keep``; new state, empty unless ``carry``.

    ``neuron`` is a string of `tssl_triton.operators.settings`. A ``spike_dtype`` of None is that of ``current``.
    """
    current = time_dense(current)
    found = run_forward(
        current, constants, state, settings.read(neuron), steps,
        synapse=synapse, keep=keep, carry=carry, spike_dtype=spike_dtype,
    )  # fmt: skip
    return _as_tensors(found, current, steps)


@lif_forward.register_fake
def _(
    current: Tensor,
    constants: Tensor | None,
    state: Tensor | None,
    neuron: str,
    steps: int,
    synapse: bool,
    *others: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    keep, carry, spike_dtype = others
    current = time_dense(current)
    found = _allocated(_outputs(current, steps, keep, carry, True, spike_dtype), current.device)
    return _as_tensors(found, current, steps)


def _as_tensors(found: Forward, current: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The results as an operator returns them: empty tensors in place of None."""
    spikes, words, checkpoints, state = found
    assert spikes is not None
    accumulated = arithmetic_dtype(current.dtype)
    if words is None:
        words = empty_rows(0, current, word_dtype(steps))
    if checkpoints is None:
        checkpoints = empty_rows(0, current, accumulated)
    return spikes, words, checkpoints, empty_rows(0, current, accumulated) if state is None else state


@operator
def lif_backward(
    grad_spikes: Tensor,
    current: Tensor,
    constants: Tensor | None,
    words: Tensor,
    checkpoints: Tensor,
    state: Tensor | None,
    neuron: str,
    synapse: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of ``current`` and of ``constants``, in their shapes; the second is empty where none are learnt."""
    current = time_dense(current)
    given = grad_spikes, current, constants, words, checkpoints, state
    grad_current, grad_constants = run_backward(*given, settings.read(neuron), synapse=synapse)
    return grad_current, empty_rows(0, current, checkpoints.dtype) if grad_constants is None else grad_constants


@lif_backward.register_fake
def _(
    grad_spikes: Tensor, current: Tensor, constants: Tensor | None, words: Tensor, checkpoints: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    current = time_dense(current)
    rows, dtype = (0, checkpoints.dtype) if constants is None else (3, constants.dtype)
    return empty_rows(current.shape[0], current, current.dtype), empty_rows(rows, current, dtype)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    current, constants, state, ctx.neuron, _, ctx.synapse, *_ = inputs
    _, words, checkpoints, _ = output
    ctx.save_for_backward(time_dense(current), constants, words, checkpoints, state)
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grad_spikes: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad_spikes is None:
        return (None,) * 9
    current, constants, words, checkpoints, state = ctx.saved_tensors
    given = grad_spikes, current, constants, words, checkpoints, state
    grad_current, grad_constants = lif_backward(*given, ctx.neuron, ctx.synapse)
    return (grad_current, None if constants is None else grad_constants, *[None] * 7)


lif_forward.register_autograd(_gradient, setup_context=_setup)
