"""Packed spikes against the reference, word for word and bit for bit."""

import numpy as np
import pytest
import torch
from judging import DTYPES, STEPS, name_of
from tssl_triton.kernels.layout import word_dtype
from tssl_triton.reference import pack_spikes as reference_pack
from tssl_triton.reference import unpack_spikes as reference_unpack

from tssl_triton import LIFParameters, pack_spikes, unpack_spikes
from tssl_triton.operators import lif_forward, write_settings

pytestmark = [pytest.mark.implementation, pytest.mark.usefixtures("poisoned", "eager")]

WORDS = [(torch.int32, T) for T in [*STEPS, 8, 9, 16, 17]]
WORDS += [(torch.int16, T) for T in (1, 2, 5, 8, 9, 15, 16)]
WORDS += [(torch.uint8, T) for T in (1, 2, 5, 7, 8)]


def draw_spikes(shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(shape[0])
    spikes = (torch.rand(shape, generator=generator) < 0.5).to(dtype)
    spikes[:, 0, 0], spikes[:, 0, 1] = 1, 0  # every bit set, the sign too, and none
    return spikes


@pytest.mark.parametrize(("word", "T"), WORDS, ids=str)
def test_pack_and_unpack(word, T):
    spikes = draw_spikes((T, 3, 47))
    words = pack_spikes(spikes, word)
    want = reference_pack(spikes.numpy(), words.numpy().dtype)
    assert words.dtype == word
    assert np.array_equal(words.numpy(), want)
    assert np.array_equal(reference_unpack(words.numpy(), T), spikes.numpy())
    assert torch.equal(unpack_spikes(words, T), spikes)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_spikes_of_every_type(dtype):
    spikes = draw_spikes((33, 3, 47), dtype)
    words = pack_spikes(spikes)
    back = unpack_spikes(words, 33, dtype)
    assert back.dtype == dtype
    assert torch.equal(back, spikes)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64], ids=name_of)
def test_integers_and_booleans_can_be_packed(dtype):
    spikes = draw_spikes((9, 3, 47), dtype)
    assert torch.equal(pack_spikes(spikes), pack_spikes(spikes.float()))


def test_whatever_is_not_zero_is_a_spike():
    values = torch.tensor([0.0, -1.0, 1e-30, 2.0, 0.0])[:, None]
    assert pack_spikes(values).item() == 0b01110


def test_bits_beyond_the_last_step_are_zero():
    words = pack_spikes(torch.ones(33, 1, 3))
    assert words.tolist() == [[[-1] * 3], [[1] * 3]]


@pytest.mark.parametrize("T", [*STEPS, 8, 9, 16, 17])
def test_the_neuron_packs_its_own_spikes(T):
    """In the narrowest word that holds the run."""
    y = torch.randn(T, 3, 47, generator=torch.Generator().manual_seed(T)) * 3
    neuron = write_settings(LIFParameters())
    spikes, words, _, _ = lif_forward(y, None, None, neuron, T, True, True, False, None)
    assert words.dtype == word_dtype(T)
    assert torch.equal(words, pack_spikes(spikes, word_dtype(T)))
