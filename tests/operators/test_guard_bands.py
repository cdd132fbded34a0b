"""Implementations write their outputs, all of them and nothing beside: called directly, into guarded memory."""

from functools import partial

import pytest
import torch
from comparing import relative_error
from judging import draw_current, draw_gradient, name_of, run
from tssl_triton.kernels.layout import checkpoint_rows, word_count, word_dtype
from tssl_triton.kernels.plan import LaunchPlan, forced_plan

from tssl_triton import STBP, LIFParameters
from tssl_triton.operators import launchers

pytestmark = [pytest.mark.implementation, pytest.mark.usefixtures("eager")]

GUARD = 513  # more than the largest block
CPU = torch.device("cpu")


class Guarded:
    """A ``(rows, N)`` tensor with a guard band on either side, unwritten at first."""

    def __init__(self, rows, neurons, dtype, values=None):
        self.sentinel = 77
        self.memory = torch.full((2 * GUARD + rows * neurons,), self.sentinel, dtype=dtype)
        self.tensor = self.memory[GUARD : GUARD + rows * neurons].view(rows, neurons)
        self.unwritten = float("nan") if dtype.is_floating_point else 77
        self.tensor.copy_(values) if values is not None else self.tensor.fill_(self.unwritten)

    def check(self):
        assert (self.memory[:GUARD] == self.sentinel).all()
        assert (self.memory[-GUARD:] == self.sentinel).all()
        return self.tensor


@pytest.mark.parametrize("static", [False, True], ids=["varying", "static"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=name_of)
@pytest.mark.parametrize("N", [1, 127, 129, 300])
@pytest.mark.parametrize("T", [3, 33, *(pytest.param(T, marks=pytest.mark.slow) for T in (16, 50))])
def test_neuron(T, N, dtype, static):
    current = draw_current((1 if static else T, N), dtype) * (0.4 if static else 1)
    grad, params = draw_gradient((T, N), dtype), LIFParameters(warmup="silent")
    state = torch.rand(3, N)
    current_in = Guarded(*current.shape, dtype, current)
    grad_in = Guarded(T, N, dtype, grad)
    state_in = Guarded(3, N, torch.float32, state)
    spikes = Guarded(T, N, dtype)
    words = Guarded(word_count(T), N, word_dtype(T))
    checkpoints = Guarded(checkpoint_rows(T), N, torch.float32)
    new_state = Guarded(3, N, torch.float32)
    grad_current = Guarded(*current.shape, dtype)
    by_surrogate = Guarded(*current.shape, dtype)

    backend = launchers(CPU)
    backend.lif_forward(
        current=current_in.tensor,
        spikes=spikes.tensor,
        words=words.tensor,
        checkpoints=checkpoints.tensor,
        state=state_in.tensor,
        new_state=new_state.tensor,
        params=params,
        synapse=True,
    )
    kept = {
        "grad_spikes": grad_in.tensor,
        "current": current_in.tensor,
        "words": words.tensor,
        "checkpoints": checkpoints.tensor,
        "state": state_in.tensor,
    }
    backend.lif_backward(**kept, grad_current=grad_current.tensor, params=params, synapse=True)
    rule = STBP("sigmoid")
    backend.surrogate_backward(
        **kept, grad_current=by_surrogate.tensor, params=params, rule=rule.surrogate_gradient, synapse=True
    )
    for written in (spikes, checkpoints, new_state, grad_current, by_surrogate):
        assert not written.check().isnan().any()
    words.check()
    for read, values in ((current_in, current), (grad_in, grad), (state_in, state)):
        assert torch.equal(read.check(), values)

    # The same numbers as through the operator, with more columns than axes.
    if not static:
        answer = run(current, grad, params, tuple(state))
        assert torch.equal(spikes.tensor, answer.spikes)
        assert torch.equal(new_state.tensor, torch.stack(answer.state))
        assert torch.equal(grad_current.tensor, answer.grad)
        assert torch.equal(by_surrogate.tensor, run(current, grad, params, tuple(state), rule=rule).grad)


@pytest.mark.parametrize("static", [False, True], ids=["varying", "static"])
@pytest.mark.parametrize(("T", "N"), [(3, 300), (33, 65)])
def test_learnt_constants_and_carried_errors(T, N, static):
    current, grad = draw_current((1 if static else T, N), torch.float32), draw_gradient((T, N), torch.float32)
    values = torch.tensor([5.0, 3.0, 1.0])[:, None].expand(3, N)
    constants, sums = Guarded(3, N, torch.float32, values), Guarded(3, N, torch.float32)
    spikes, words = Guarded(T, N, torch.float32), Guarded(word_count(T), N, word_dtype(T))
    checkpoints, grad_current = Guarded(checkpoint_rows(T), N, torch.float32), Guarded(*current.shape, torch.float32)
    carry = Guarded(2, N, torch.float32)
    neuron = {"params": LIFParameters(), "synapse": True, "constants": constants.tensor}
    backend, rule = launchers(CPU), STBP("sigmoid").surrogate_gradient
    backend.lif_forward(current, spikes.tensor, words.tensor, checkpoints.tensor, None, None, **neuron)
    kept = grad, current, words.tensor, checkpoints.tensor, None, grad_current.tensor
    for back in (backend.lif_backward, partial(backend.surrogate_backward, rule=rule)):
        sums.tensor.fill_(torch.nan)
        back(*kept, grad_constants=sums.tensor, **neuron)
        once = sums.check().clone()
        back(*kept, grad_constants=sums.tensor, carry=carry.tensor.zero_(), **neuron)
        assert relative_error(sums.check(), 2.0 * once) < 1e-6
        for written in (spikes, checkpoints, grad_current, carry):
            assert not written.check().isnan().any()
    words.check()
    assert torch.equal(constants.check(), values)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("N", [1, 127, 300])
@pytest.mark.parametrize("T", [1, 5, 33])
def test_synapse(T, N, reverse):
    inputs = Guarded(T, N, torch.float32, draw_gradient((T, N)))
    outputs, state = Guarded(T, N, torch.float32), Guarded(1, N, torch.float32, torch.ones(1, N))
    new_state = Guarded(1, N, torch.float32)
    arguments = {"inputs": inputs.tensor, "outputs": outputs.tensor, "tau_syn": 3.0, "reverse": reverse}
    launchers(CPU).psc(**arguments, state=state.tensor, new_state=new_state.tensor)
    inputs.check()
    assert not outputs.check().isnan().any()
    assert (state.check() == 1).all()
    assert torch.equal(new_state.check()[0], outputs.tensor[0 if reverse else -1])

    before = outputs.tensor.clone()
    launchers(CPU).psc(**arguments, state=None, new_state=None)
    assert not torch.equal(outputs.check(), before)
    launchers(CPU).psc(**arguments, state=torch.zeros(1, N), new_state=None)
    after_zero = outputs.check().clone()
    launchers(CPU).psc(**arguments, state=None, new_state=None)
    assert torch.equal(outputs.check(), after_zero)


@pytest.mark.parametrize("N", [1, 127, 300])
@pytest.mark.parametrize("T", [1, 5, 31, 32, 33, 64, 100])
def test_packing(T, N):
    values = (torch.rand(T, N) < 0.5).float()
    spikes, words = Guarded(T, N, torch.float32, values), Guarded(word_count(T), N, torch.int32)
    back = Guarded(T, N, torch.float32)
    backend = launchers(CPU)
    backend.pack(spikes=spikes.tensor, words=words.tensor)
    backend.unpack(words=words.tensor, spikes=back.tensor)
    spikes.check()
    words.check()
    assert torch.equal(back.check(), values)


@pytest.mark.parametrize("plan", [LaunchPlan(16, 1), LaunchPlan(64, 2), LaunchPlan(512, 4)], ids=str)
@pytest.mark.parametrize("rule", ["tssl", "stbp"])
def test_the_block_does_not_change_the_numbers(rule, plan):
    y, grad = draw_current((21, 3, 37), torch.float32), draw_gradient((21, 3, 37), torch.float32)
    want = run(y, grad, LIFParameters(), rule=rule)
    with forced_plan(plan):
        got = run(y, grad, LIFParameters(), rule=rule)
    assert torch.equal(got.spikes, want.spikes)
    assert torch.equal(got.grad, want.grad)
