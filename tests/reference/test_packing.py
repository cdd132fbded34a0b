"""The reference's bit masks: known patterns and the way there and back."""

import numpy as np
import pytest
from tssl_triton.reference import pack_spikes, unpack_spikes


@pytest.mark.parametrize("T", [1, 5, 31, 32, 33, 64, 100])
def test_there_and_back(T):
    spikes = (np.random.default_rng(T).random((T, 2, 3)) < 0.5).astype(np.float64)
    words = pack_spikes(spikes)
    assert words.dtype == np.int32
    assert words.shape == (-(-T // 32), 2, 3)
    assert np.array_equal(unpack_spikes(words, T), spikes)


@pytest.mark.parametrize(("T", "dtype"), [(1, np.uint8), (5, np.uint8), (8, np.uint8), (9, np.int16), (16, np.int16)])
def test_there_and_back_in_one_narrow_word(T, dtype):
    spikes = (np.random.default_rng(T).random((T, 7)) < 0.5).astype(np.float64)
    words = pack_spikes(spikes, dtype)
    assert words.dtype == dtype
    assert words.shape == (1, 7)
    assert np.array_equal(unpack_spikes(words, T), spikes)


@pytest.mark.parametrize(
    ("steps", "dtype", "want"),
    [
        ([0], np.int32, [1]),
        ([1, 3], np.int32, [0b1010]),
        ([30], np.int32, [2**30]),
        ([31], np.int32, [-(2**31)]),
        (range(32), np.int32, [-1]),
        ([32], np.int32, [0, 1]),
        ([0, 33, 64], np.int32, [1, 2, 1]),
        ([15], np.int16, [-(2**15)]),
        (range(16), np.int16, [-1]),
        ([7], np.uint8, [128]),
        (range(8), np.uint8, [255]),
    ],
)
def test_known_words(steps, dtype, want):
    spikes = np.zeros(max(steps) + 1)
    spikes[list(steps)] = 1
    assert pack_spikes(spikes, dtype).tolist() == want


def test_bits_past_the_last_step_are_zero():
    assert pack_spikes(np.ones(33)).tolist() == [-1, 1]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="uint8 holds at most 8 time steps, got T = 9; use int32"):
        pack_spikes(np.ones(9), np.uint8)
    with pytest.raises(ValueError, match="words must be int32, int16 or uint8, got int64"):
        unpack_spikes(np.zeros(1, np.int64), 1)
    with pytest.raises(ValueError, match=r"words must be \(ceil\(33 / 32\), \*\) for 33 steps, got shape \(1,\)"):
        unpack_spikes(np.zeros(1, np.int32), 33)
