"""The comparison that the tests rest on must itself fail when it should."""

import numpy as np
import pytest
from comparing import assert_close, relative_error


def test_message_says_how_far_and_where():
    got, want = np.ones((2, 3)), np.ones((2, 3))
    got[1, 0], got[1, 2] = 1.5, 0.0
    message = r"u: 2 of 6 differ .* max error 1, RMS error 0\.456; first at \(1, 0\): got .*1\.5.*, want .*1\.0"
    with pytest.raises(AssertionError, match=message):
        assert_close("u", got, want, atol=0.1)


@pytest.mark.parametrize(
    ("got", "want"),
    [(np.nan, 0.0), (0.0, np.nan), (np.nan, np.nan), (np.inf, 0.0), (0.0, np.inf), (np.inf, -np.inf)],
)
def test_not_a_number_and_infinities_are_mismatches(got, want):
    with pytest.raises(AssertionError, match="1 of 1 differ"):
        assert_close("x", [got], [want], atol=1.0, rtol=1.0)


def test_equal_infinities_and_empty_arrays_agree():
    assert_close("x", [np.inf, 1.0], [np.inf, 1.0])
    assert_close("x", np.zeros((0, 3)), np.zeros((0, 3)))
    assert relative_error(np.zeros((0, 3)), np.zeros((0, 3))) == 0


def test_tolerances_add_up():
    assert_close("x", [11.5], [10.0], atol=0.5, rtol=0.1)
    with pytest.raises(AssertionError, match="1 of 1 differ"):
        assert_close("x", [11.6], [10.0], atol=0.5, rtol=0.1)


def test_shapes_must_be_equal():
    with pytest.raises(AssertionError, match=r"x: got shape \(3,\), want \(1, 3\)"):
        assert_close("x", np.zeros(3), np.zeros((1, 3)))
    with pytest.raises(AssertionError, match=r"got shape \(3,\), want \(1, 3\)"):
        relative_error(np.zeros(3), np.zeros((1, 3)))


def test_relative_error():
    assert relative_error([1.0, 4.0], [2.0, -4.0]) == 2.0
    assert relative_error([0.0], [0.0]) == 0.0
    assert relative_error([1.0], [0.0]) == np.inf
    assert not relative_error([np.nan], [1.0]) < 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_torch_tensors_are_taken_as_they_are(dtype):
    torch = pytest.importorskip("torch")
    tensor = torch.tensor([1.0, 2.0]).to(getattr(torch, dtype))
    if tensor.is_floating_point():
        tensor.requires_grad_()
    assert_close("x", tensor, [1.0, 2.0])
    assert relative_error(tensor, np.array([1.0, 2.0])) == 0
