"""Spike masks as bits: word w of a neuron holds its time steps W w .. W w + W - 1, step t in bit t % W.

W is 32 (int32, any T). Short windows fit one narrower word per neuron: 16 bits (int16, T <= 16) or
8 bits (uint8, T <= 8). Bits past the last step are zero; the highest bit of a signed word is its sign.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .neuron import Array, with_time_axis

WORD_BITS = {np.dtype(np.int32): 32, np.dtype(np.int16): 16, np.dtype(np.uint8): 8}


def pack_spikes(spikes: ArrayLike, dtype: DTypeLike = np.int32) -> np.ndarray:
    """Spikes ``(T, *)`` to words ``(ceil(T / W), *)``; anything but 0 counts as a spike.

    Raises:
        ValueError: if the word type is not one of the three, or T steps do not fit one narrow word.
    """
    fired = with_time_axis("spikes", spikes) != 0
    bits = _word_bits(dtype)
    T = len(fired)
    if bits < 32 and bits < T:
        raise ValueError(f"{np.dtype(dtype).name} holds at most {bits} time steps, got T = {T}; use int32")
    words = np.zeros((-(-T // bits), *fired.shape[1:]), dtype=np.int64)
    for t in range(T):
        words[t // bits] += fired[t].astype(np.int64) << (t % bits)
    # Two's complement: a word whose highest bit is set is a negative number where the type has a sign.
    return words.astype(np.uint64).astype(f"uint{bits}").view(np.dtype(dtype))


def unpack_spikes(words: np.ndarray, steps: int) -> Array:
    """Words ``(ceil(T / W), *)`` back to spikes ``(T, *)``, 0.0 or 1.0, for ``steps`` = T.

    Raises:
        ValueError: if the words' type is not one of the three or their number does not fit ``steps``.
    """
    bits = _word_bits(words.dtype)
    if steps < 1 or words.ndim < 1 or len(words) != -(-steps // bits):
        raise ValueError(f"words must be (ceil({steps} / {bits}), *) for {steps} steps, got shape {words.shape}")
    return np.stack([(words[t // bits].astype(np.int64) >> (t % bits)) & 1 for t in range(steps)]).astype(np.float64)


def _word_bits(dtype: DTypeLike) -> int:
    if np.dtype(dtype) not in WORD_BITS:
        raise ValueError(f"words must be int32, int16 or uint8, got {np.dtype(dtype).name}")
    return WORD_BITS[np.dtype(dtype)]
