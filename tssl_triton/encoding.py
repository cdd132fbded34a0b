"""Encoding: data as input of spiking layers, and labels as target spike trains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tssl_triton._checks import check_count, check_dtype, check_shape
from tssl_triton.parameters import checked_positive

#: Target spike trains from the literature, for 5 time steps.
PATTERNS: dict[str, tuple[int, ...]] = {
    "three-spikes": (0, 1, 0, 1, 1),
    "four-spikes": (0, 1, 1, 1, 1),
}


@dataclass(frozen=True)
class StaticInput:
    """A real-valued input that is the same at every time step, as returned by `static`.

    A layer multiplies a ``StaticInput`` by its weights once instead of once per step. Layers recognise it by its type,
    never by its values.

    Args:
        values: the input of one step, ``(B, *features)``.
        steps: the number of time steps T.
    """

    values: Tensor
    steps: int

    def __post_init__(self) -> None:
        if not isinstance(self.values, Tensor):
            raise TypeError(f"values must be a tensor (B, *features), got {type(self.values).__name__}")
        if self.values.dim() < 2:
            raise ValueError(f"values must be (B, *features), got shape {tuple(self.values.shape)}")
        object.__setattr__(self, "steps", check_count("steps", self.steps))

    def dense(self) -> Tensor:
        """The input as a dense tensor ``(T, B, *features)`` (a view, without a copy)."""
        return self.values.expand(self.steps, *self.values.shape)


def static(values: Tensor, steps: int) -> StaticInput:
    """Present ``values`` ``(B, *features)`` as a constant input for ``steps`` time steps."""
    return StaticInput(values, steps)


def pattern_steps(pattern: str | Sequence[int]) -> tuple[int, ...]:
    """Convert a pattern to a tuple of 0 and 1: a name from `PATTERNS`, digits like ``"01011"``, or a sequence.

    Raises:
        TypeError: if it is neither a string nor a sequence.
        ValueError: if the name is unknown, the pattern is empty, or an entry is neither 0 nor 1.
    """
    if isinstance(pattern, str) and pattern in PATTERNS:
        return PATTERNS[pattern]
    accepted = f"{', '.join(map(repr, PATTERNS))} or zeros and ones such as '01011', or a sequence of 0 and 1"
    if not isinstance(pattern, Sequence):
        raise TypeError(f"pattern must be {accepted}; got {pattern!r}")
    if not pattern or any(entry not in (("0", "1") if isinstance(pattern, str) else (0, 1)) for entry in pattern):
        raise ValueError(f"pattern must be {accepted}; got {pattern!r}")
    return tuple(map(int, pattern))


def target_pattern(
    labels: Tensor,
    classes: int,
    pattern: str | Sequence[int] = "three-spikes",
    steps: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Target spike trains: the labelled class fires in a given pattern, all other classes are silent.

    Args:
        labels: class of each sample, ``(B,)``, int64, in ``[0, classes)``; out-of-range labels raise an error on the
            device (a RuntimeError on the CPU).
        classes: number of output neurons.
        pattern: see `pattern_steps`.
        steps: number of time steps T; the pattern is repeated and truncated to T steps. Default: its length.
        dtype: of the result.

    Returns:
        ``(T, B, classes)`` of 0 and 1, on the device of ``labels``.

    Raises:
        TypeError, ValueError: if an argument is invalid; the message names it.
    """
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        given = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be an int64 tensor (B,), got {given}")
    if labels.dim() != 1:
        raise ValueError(f"labels must be (B,), got shape {tuple(labels.shape)}")
    classes = check_count("classes", classes)
    fired = pattern_steps(pattern)
    steps = len(fired) if steps is None else check_count("steps", steps)
    check_dtype("dtype", dtype)

    one_hot = torch.zeros(labels.shape[0], classes, dtype=dtype, device=labels.device)
    one_hot.scatter_(1, labels.unsqueeze(1), 1)
    # Assembled on the device: copying a pattern from the host would synchronise in every training step.
    silent = torch.zeros_like(one_hot)
    return torch.cat([one_hot if fired[t % len(fired)] else silent for t in range(steps)]).view(steps, *one_hot.shape)


def bin_events(
    times: Tensor,
    units: Tensor,
    shape: Sequence[int],
    bin_width: float,
    steps: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Bin the events of one recording: 1 for each step and input with at least one event, else 0.

    Step ``t`` contains the events with ``t * bin_width <= time < (t + 1) * bin_width``. Events after the last step are
    dropped.

    Args:
        times: time of each event, ``(E,)``, >= 0, in the unit of ``bin_width``, in any order.
        units: input of each event, ``(E,)`` integers: a flat index into ``shape``.
        shape: features of one step, such as ``(2, 34, 34)`` for polarity, row and column.
        bin_width: length of one time step, > 0.
        steps: number of time steps T.
        dtype: of the result.

    Returns:
        ``(T, *shape)`` of 0 and 1, on the device of ``times``.

    Raises:
        TypeError, ValueError: if an argument is invalid; the message names it.
    """
    for name, events in (("times", times), ("units", units)):
        if not isinstance(events, Tensor):
            raise TypeError(f"{name} must be a tensor (E,), got {type(events).__name__}")
        if events.dim() != 1:
            raise ValueError(f"{name} must be (E,), got shape {tuple(events.shape)}")
    if len(times) != len(units):
        raise ValueError(f"times and units must have one entry per event, got {len(times)} and {len(units)}")
    if units.is_floating_point() or units.dtype == torch.bool:
        raise TypeError(f"units must be a tensor of integers, got {units.dtype}")
    steps = check_count("steps", steps)
    shape = check_shape("shape", shape)
    checked_positive("bin_width", bin_width)
    check_dtype("dtype", dtype)
    features = math.prod(shape)
    times = times.to(torch.float64)  # exact in microseconds; float32 is exact for 16 seconds only
    if len(times):
        if not bool((torch.isfinite(times) & (times >= 0)).all()):
            raise ValueError("times must be finite and >= 0")
        lowest, highest = int(units.min()), int(units.max())
        if lowest < 0 or highest >= features:
            raise ValueError(
                f"units must be in [0, {features}) for shape {shape}, got values from {lowest} to {highest}"
            )
    step = torch.floor(times / bin_width)
    # Corrects for rounding of the quotient; an event on the border of two bins belongs to the later one.
    step += ((step + 1) * bin_width <= times).double() - (step * bin_width > times).double()
    kept = step < steps
    spikes = torch.zeros(steps, features, dtype=dtype, device=times.device)
    spikes[step[kept].long(), units[kept].long()] = 1
    return spikes.view(steps, *shape)
