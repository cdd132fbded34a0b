"""A long run in pieces: state carried from window to window."""

import numpy as np
import pytest
import torch
from judging import (
    DTYPES,
    RESETS,
    VARIANTS,
    WARMUPS,
    assert_agrees,
    assert_near,
    draw_current,
    draw_gradient,
    judge,
    name_of,
    run,
)

from tssl_triton import LIFParameters, LIFState, lif
from tssl_triton.encoding import static

pytestmark = [pytest.mark.implementation, pytest.mark.usefixtures("poisoned", "eager")]

PIECES = [7, 13, 1]


def run_in_pieces(y, grad, params, pieces, synapse=True):
    """Answers, windows of y and grad, and the state that each window started from."""
    state, answers, starts = None, [], []
    for piece_y, piece_grad in zip(y.split(pieces), grad.split(pieces), strict=True):
        starts.append(state)
        answers.append(run(piece_y, piece_grad, params, state, synapse))
        state = answers[-1].state
    return answers, starts


@pytest.mark.parametrize("synapse", [True, False])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_spikes_and_state_equal_one_run(dtype, reset, synapse):
    y, grad = draw_current((21, 3, 37), dtype), draw_gradient((21, 3, 37), dtype)
    params = LIFParameters(reset=reset)
    whole = run(y, grad, params, synapse=synapse)
    answers, _ = run_in_pieces(y, grad, params, PIECES, synapse)
    assert torch.equal(torch.cat([answer.spikes for answer in answers]), whole.spikes)
    for name, got, want in zip(LIFState._fields, answers[-1].state, whole.state, strict=True):
        assert torch.equal(got, want), name


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("pieces", [PIECES, [33, 40, 3]], ids=str)
def test_gradient_within_a_window_is_the_reference_s(pieces, reset, variant, warmup):
    T = sum(pieces)
    y, grad = draw_current((T, 3, 11)), draw_gradient((T, 3, 11))
    params = LIFParameters(reset=reset, variant=variant, warmup=warmup)
    answers, starts = run_in_pieces(y, grad, params, pieces)
    windows = zip(answers, starts, y.split(pieces), grad.split(pieces), strict=True)
    for answer, start, piece_y, piece_grad in windows:
        assert_agrees(answer, judge(piece_y, piece_grad, params, start), torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=name_of)
def test_gradient_within_a_window_in_other_types(dtype):
    y, grad = draw_current((21, 3, 37), dtype), draw_gradient((21, 3, 37), dtype)
    answers, starts = run_in_pieces(y, grad, LIFParameters(), PIECES)
    for answer, start, piece_y, piece_grad in zip(answers, starts, y.split(PIECES), grad.split(PIECES), strict=True):
        assert_agrees(answer, judge(piece_y, piece_grad, LIFParameters(), start), dtype)


def test_without_state_the_pieces_are_another_run():
    """The state matters: the test above would see it lost."""
    y = draw_current((21, 3, 37))
    whole = lif(y)
    pieces = torch.cat([lif(piece) for piece in y.split(PIECES)])
    assert not torch.equal(whole, pieces)


def test_static_input_in_pieces():
    y = 0.4 * draw_current((1, 3, 37))[0]
    whole, after = lif(static(y, 21), return_state=True)
    state, parts = None, []
    for steps in PIECES:
        part, state = lif(static(y, steps), state=state, return_state=True)
        parts.append(part)
    assert torch.equal(torch.cat(parts), whole)
    assert all(map(torch.equal, state, after))

    leaf = y.clone().requires_grad_()
    grad = draw_gradient((13, 3, 37))
    lif(static(leaf, 13), state=after).backward(grad)
    verdict = judge(y.expand(13, 3, 37), grad, LIFParameters(), after)
    largest = np.abs(verdict.grad).max(axis=0)
    assert_near("gradient", leaf.grad[None], verdict.grad.sum(axis=0)[None], torch.float64, verdict.clear, largest)


def test_states_carry_no_gradient():
    y = draw_current((7, 3, 37)).requires_grad_()
    _, state = lif(y, return_state=True)
    assert not any(part.requires_grad for part in state)
    given = LIFState(*(part.clone().requires_grad_() for part in state))
    lif(y, state=given).sum().backward()
    assert all(part.grad is None for part in given)


def test_a_state_of_any_float_type_and_memory_order_is_taken():
    y = draw_current((5, 2, 3, 4, 4), torch.float32)
    _, state = lif(y, return_state=True)
    strange = LIFState(*(part.to(memory_format=torch.channels_last).double() for part in state))
    assert torch.equal(lif(y, state=strange), lif(y, state=state))


def test_state_is_not_written_to():
    y = draw_current((5, 3, 37), torch.float32)
    _, state = lif(y, return_state=True)
    before = [part.clone() for part in state]
    lif(y, state=state, return_state=True)
    assert all(map(torch.equal, state, before))


def test_without_gradient_the_answer_is_the_same():
    """Nothing is kept then: another path through the same loop."""
    y = draw_current((40, 3, 37), torch.float32)
    with torch.no_grad():
        spikes, state = lif(y, return_state=True)
    kept, kept_state = lif(y.requires_grad_(), return_state=True)
    assert torch.equal(spikes, kept)
    assert all(map(torch.equal, state, kept_state))
