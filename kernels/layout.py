"""How time is laid out: spikes packed into words, long runs cut into windows.

A packed spike train has shape ``(words, *neurons)``. Word ``w`` of a neuron holds steps ``32 w .. 32 w + 31``, step
``t`` in bit ``t % 32``. Runs of at most 16 steps need one word only and use the narrowest integer that holds it, so
that a mask costs 1/T byte per neuron-step at T <= 8 and not 4/T.

Backward replays the membrane from the weighted input, one window of steps at once: as many membrane potentials as
fit into registers. A longer run therefore keeps a checkpoint ``(i, v, a)`` of synaptic current, membrane potential
and postsynaptic current at the start of every window but the first: 12 bytes per 8 neuron-steps in float32.
"""

from __future__ import annotations

import torch

WORD = 32
"""Steps in one word of a packed spike train."""


WINDOW = 8
"""Steps that backward replays at once: on a GPU their membrane potentials fit into registers at four neurons a thread,
with room for a second block of threads; on a CPU 16 rows in and out are what caches and prefetchers follow."""


def cdiv(a: int, b: int) -> int:
    """``a / b`` rounded up."""
    return -(-a // b)


def word_count(steps: int) -> int:
    """Words per neuron in a packed spike train of ``steps`` steps."""
    return cdiv(steps, WORD)


def word_dtype(steps: int) -> torch.dtype:
    """The narrowest integer type whose words hold ``min(steps, 32)`` steps."""
    if steps <= 8:
        return torch.uint8
    return torch.int16 if steps <= 16 else torch.int32


def checkpoint_rows(steps: int) -> int:
    """Rows of the checkpoints of a run: ``(i, v, a)`` for every window but the first."""
    return 3 * (cdiv(steps, WINDOW) - 1)


def size_of(x: torch.Tensor) -> tuple[int, int]:
    """Steps T, and neurons N of each, of a tensor ``(T, *)`` whose steps are dense."""
    return len(x), x.numel() // len(x)


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that state is held and arithmetic done in: float32, or float64 for float64 tensors."""
    return torch.float64 if dtype == torch.float64 else torch.float32
