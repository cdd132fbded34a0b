"""Counting bytes where the mask is true: per access, and per address."""

import numpy as np
import pytest
import torch

from bench.static.traffic import Counter, Traffic, count_launch


@pytest.mark.interpret
@pytest.mark.parametrize("neurons", [1, 127, 128, 300])
def test_a_copy_moves_eight_bytes_an_element(neurons):
    from kernels_of_tests import copy_launch

    counted = count_launch(copy_launch(neurons, "cpu"))
    assert counted == {
        "x_ptr": Traffic(loaded=4 * neurons, distinct_loaded=4 * neurons),
        "y_ptr": Traffic(stored=4 * neurons, distinct_stored=4 * neurons),
    }
    assert sum(t.loaded + t.stored for t in counted.values()) == 8 * neurons


def test_repeated_reads_count_once_as_distinct():
    x = torch.zeros(8, dtype=torch.float16)
    counter = Counter({"x": x})
    addresses = x.data_ptr() + 2 * np.arange(8, dtype=np.uint64)
    for mask in (np.ones(8, bool), np.arange(8) < 3):
        counter.touch("load", addresses, mask, 2)
    assert counter.result() == {"x": Traffic(loaded=22, distinct_loaded=16)}


def test_access_outside_all_arguments():
    x = torch.zeros(8)
    beyond = np.array([x.data_ptr() + x.nbytes], dtype=np.uint64)
    with pytest.raises(RuntimeError, match="accesses memory of no argument"):
        Counter({"x": x}).touch("store", beyond, np.ones(1, bool), 4)
    # A masked access is none.
    Counter({"x": x}).touch("store", beyond, np.zeros(1, bool), 4)
