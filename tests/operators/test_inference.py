"""Spikes of one byte, where nothing is to be learnt: the numbers of `lif`, in bool or uint8."""

import pytest
import torch
from judging import draw_current

from tssl_triton import LIFConstants, LIFParameters, LIFState, encoding, lif
from tssl_triton.operators import lif_forward, write_settings

pytestmark = [pytest.mark.implementation, pytest.mark.usefixtures("eager")]


def check(y, dtype, **options):
    want, state = lif(y, return_state=True, **options)
    got, after = lif(y, return_state=True, dtype=dtype, **options)
    assert got.dtype == dtype
    assert got.stride() == want.stride()
    assert torch.equal(got.to(want.dtype), want)
    assert want.any()
    for one, other in zip(after, state, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(lif(y, dtype=dtype, **options), got)


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("steps", [1, 5, 8, 33])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
@pytest.mark.parametrize("of", [torch.float32, torch.bfloat16, torch.float64])
def test_the_spikes_are_those_of_lif(of, dtype, steps, reset):
    check(draw_current((steps, 3, 33), of), dtype, params=LIFParameters(reset=reset))


def test_from_a_state_in_another_memory_order_without_synapse():
    y = draw_current((6, 2, 3, 4, 5), torch.float32).transpose(2, 4)
    state = LIFState(*(torch.rand(y.shape[1:]) for _ in range(3)))
    check(y, torch.bool, state=state, synapse=False)


def test_a_static_input():
    check(encoding.static(draw_current((2, 40), torch.float32) + 0.5, 7), torch.uint8)


def test_fake_tensors_and_opcheck():
    y = draw_current((5, 2, 7), torch.float32)
    neuron = write_settings(LIFParameters())
    for carry in (False, True):
        arguments = (y, None, None, neuron, 5, True, False, carry, torch.uint8)
        torch.library.opcheck(lif_forward.registered, arguments)
    run = torch.compile(lambda x: lif(x, dtype=torch.bool), fullgraph=True, backend="eager")
    assert torch.equal(run(y), lif(y, dtype=torch.bool))


def test_no_gradient_no_other_type_no_learnt_constants():
    y = draw_current((5, 2, 7), torch.float32).requires_grad_()
    with pytest.raises(ValueError, match=r"dtype must be None where a gradient is asked for.*torch\.no_grad"):
        lif(y, dtype=torch.bool)
    with torch.no_grad():
        assert lif(y, dtype=torch.bool).dtype == torch.bool
        with pytest.raises(TypeError, match=r"dtype must be None, that of current, torch\.float32, .* got torch\.int8"):
            lif(y, dtype=torch.int8)
        with pytest.raises(ValueError, match="dtype must be None with learnt constants"):
            lif(y, dtype=torch.uint8, learnt=LIFConstants(tau_mem=torch.full((), 5.0)))
    assert lif(y, dtype=torch.float32).requires_grad
