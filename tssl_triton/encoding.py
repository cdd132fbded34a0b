"""Turning data into input for spiking layers, and labels into target spike trains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tssl_triton._checks import check_count, check_dtype, check_shape
from tssl_triton.parameters import checked_positive

#: Target spike trains of the literature, for 5 time steps.
PATTERNS: dict[str, tuple[int, ...]] = {
    "three-spikes": (0, 1, 0, 1, 1),
    "four-spikes": (0, 1, 1, 1, 1),
}


@dataclass(frozen=True)
class StaticInput:
    """One real-valued input that is presented unchanged at every time step.

    A layer that is handed a ``StaticInput`` multiplies by its weights once, not once per step: the weighted
    input is the same at each step. Made by `static`; layers recognise it by its type, never by its values.

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
        """The same input spelled out over time, ``(T, B, *features)`` (a view, nothing is copied)."""
        return self.values.expand(self.steps, *self.values.shape)


def static(values: Tensor, steps: int) -> StaticInput:
    """Present ``values`` ``(B, *features)`` as a constant input current for ``steps`` time steps."""
    return StaticInput(values, steps)


def pattern_steps(pattern: str | Sequence[int]) -> tuple[int, ...]:
    """A pattern as a tuple of 0 and 1: a name from `PATTERNS`, digits like ``"01011"``, or a sequence.

    Raises:
        TypeError: if it is none of these.
        ValueError: if the name is unknown, it is empty, or an entry is neither 0 nor 1.
    """
    if isinstance(pattern, str) and pattern in PATTERNS:
        return PATTERNS[pattern]
    accepted = f"{', '.join(map(repr, PATTERNS))} or zeros and ones such as '01011'"
    if isinstance(pattern, str):
        if not pattern or set(pattern) - {"0", "1"}:
            raise ValueError(f"pattern must be {accepted}, got {pattern!r}")
        return tuple(int(digit) for digit in pattern)
    if not isinstance(pattern, Sequence):
        raise TypeError(f"pattern must be {accepted}, or a sequence of 0 and 1, got {pattern!r}")
    if not pattern or any(entry not in (0, 1) for entry in pattern):
        raise ValueError(f"pattern must be {accepted}, or a sequence of 0 and 1, got {pattern!r}")
    return tuple(int(entry) for entry in pattern)


def target_pattern(
    labels: Tensor,
    classes: int,
    pattern: str | Sequence[int] = "three-spikes",
    steps: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Target spike trains: the labelled class fires in a given pattern, all others stay silent.

    Args:
        labels: class of each sample, ``(B,)``, int64, in ``[0, classes)``; a label out of range is an error that the
            device raises (a RuntimeError on the CPU).
        classes: number of output neurons.
        pattern: see `pattern_steps`.
        steps: number of time steps T; the pattern is repeated from its start and cut off at T. Its own length
            if not given.
        dtype: of the result.

    Returns:
        ``(T, B, classes)`` of 0 and 1, on the device of ``labels``.

    Raises:
        TypeError, ValueError: naming the argument.
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
    # Put together on the device: a pattern copied there from the host would make the host wait in every training step.
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
    """Events of one recording as a binary spike tensor: 1 where at least one event fell into the bin.

    Step ``t`` collects the events with ``t * bin_width <= time < (t + 1) * bin_width``. Events after the last
    step are left out, so a recording may be longer than ``steps`` bins.

    Args:
        times: time of each event, ``(E,)``, >= 0, in the unit of ``bin_width``, in any order.
        units: which input each event came from, ``(E,)`` of integers: its index into ``shape``, flattened.
        shape: features of one step, such as ``(2, 34, 34)`` for polarity, row and column.
        bin_width: length of one time step, > 0.
        steps: number of time steps T.
        dtype: of the result.

    Returns:
        ``(T, *shape)`` of 0 and 1, on the device of ``times``.

    Raises:
        TypeError, ValueError: naming the argument.
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
    times = times.to(torch.float64)  # which holds every microsecond of a recording, float32 only the first 16 seconds
    if len(times):
        if not bool((torch.isfinite(times) & (times >= 0)).all()):
            raise ValueError("times must be finite and >= 0")
        lowest, highest = int(units.min()), int(units.max())
        if lowest < 0 or highest >= features:
            raise ValueError(
                f"units must be in [0, {features}) for shape {shape}, got values from {lowest} to {highest}"
            )
    step = torch.floor(times / bin_width)
    # The quotient is rounded; an event on the border of two bins belongs to the later one.
    step += ((step + 1) * bin_width <= times).double() - (step * bin_width > times).double()
    kept = step < steps
    spikes = torch.zeros(steps, features, dtype=dtype, device=times.device)
    spikes[step[kept].long(), units[kept].long()] = 1
    return spikes.view(steps, *shape)
