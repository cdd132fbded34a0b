"""Learnt time constants and thresholds: spikes and every gradient against the reference, for all rules."""

import itertools

import pytest
import torch
from comparing import assert_close, relative_error
from judging import ABLATIONS, DTYPES, RESETS, SURROGATE_RULES, VARIANTS, WARMUPS, draw_current, draw_gradient, name_of
from learning import NAMES, draw_constants, learnt_by_lif, learnt_by_reference
from tssl_triton.kernels.layout import checkpoint_rows, word_count, word_dtype

from tssl_triton import LIFConstants, LIFParameters, implementation, lif
from tssl_triton.encoding import static
from tssl_triton.operators import Neuron, interpreting, launchers
from tssl_triton.operators.neuron import walk_back
from tssl_triton.rules import SLAYER, STBP, TSSL

pytestmark = [pytest.mark.implementation, pytest.mark.usefixtures("poisoned", "eager")]

T, B, N = 20, 2, 9
TSSL_OPTIONS = [*itertools.product(VARIANTS, WARMUPS), *ABLATIONS]

# float64 differs by rounding alone. In 32 bits 1/du and rho hand rounding on, as they do for weights. Of 16-bit tensors
# the arithmetic is float32's; only the gradient of y is rounded to their type, or by Triton's interpreter cut off.
ERRORS = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 2e-5, torch.bfloat16: 2e-5}
ROUNDING = {torch.float64: 0.0, torch.float32: 0.0, torch.float16: 2**-11}
ROUNDING[torch.bfloat16] = 2**-7 if interpreting() else 2**-8


def check(params, rule, dtype=torch.float64, steps=T, seed=0, synapse=True):
    y, grad = draw_current((steps, B, N), dtype, seed), draw_gradient((steps, B, N), dtype, seed)
    constants = draw_constants(N, dtype if dtype == torch.float64 else torch.float32, seed)
    if not synapse:
        constants = constants._replace(tau_syn=torch.full((N,), 3.0, dtype=constants.tau_mem.dtype, requires_grad=True))
    got, _ = learnt_by_lif(y, grad, constants, params, rule, synapse=synapse)
    want = learnt_by_reference(y, grad, constants, params, rule, synapse=synapse)
    assert_agrees(got, want, dtype, synapse)


def assert_agrees(got, want, dtype=torch.float64, synapse=True):
    assert want.spikes.any()
    assert not want.spikes.all()
    assert_close("spikes", got.spikes, want.spikes)
    assert got.current.dtype == dtype
    assert relative_error(got.current, want.current) < ERRORS[dtype] + ROUNDING[dtype]
    for name in NAMES:
        mine, theirs = getattr(got, name), getattr(want, name)
        assert theirs.any() == (name != "tau_syn" or synapse)
        assert relative_error(mine, theirs) < ERRORS[dtype], name


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize(("variant", "warmup"), TSSL_OPTIONS)
def test_tssl(variant, warmup, reset):
    check(LIFParameters(reset=reset, variant=variant, warmup=warmup), TSSL(), seed=1)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("rule", SURROGATE_RULES, ids=str)
def test_surrogates(rule, reset):
    check(LIFParameters(reset=reset), rule, seed=2)


@pytest.mark.parametrize(
    ("steps", "dtype"),
    [*((steps, torch.float64) for steps in (1, 8, 9)), *itertools.product([5, 40], DTYPES)],
    ids=lambda value: str(value) if isinstance(value, int) else name_of(value),
)
@pytest.mark.parametrize("rule", [TSSL(), STBP("sigmoid", width=0.5)], ids=lambda rule: rule.name)
def test_types_and_lengths(rule, steps, dtype):
    if steps == 1:  # v[-1] = 0 leaves nothing to learn of tau_mem; a state does
        y, grad, constants = draw_current((1, B, N), dtype), draw_gradient((1, B, N), dtype), draw_constants(N)
        got, _ = learnt_by_lif(y, grad, constants, LIFParameters(), rule)
        assert not got.tau_mem.any()
        return
    check(LIFParameters(reset="subtract"), rule, dtype, steps, seed=steps)


@pytest.mark.parametrize("rule", [TSSL(), STBP("sigmoid", width=0.5), SLAYER()], ids=lambda rule: rule.name)
def test_without_synapse(rule):
    check(LIFParameters(), rule, synapse=False)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("rule", [TSSL(), STBP("sigmoid", width=0.5), SLAYER()], ids=lambda rule: rule.name)
def test_windows_with_carried_state(rule, reset):
    params, constants, state = LIFParameters(reset=reset), draw_constants(N), None
    y, grad = draw_current((T, B, N)), draw_gradient((T, B, N))
    whole, after = learnt_by_lif(y, grad, constants, params, rule)
    spikes = []
    for part, part_grad in zip(y.split([7, 12, 1]), grad.split([7, 12, 1]), strict=True):
        want = learnt_by_reference(part, part_grad, constants, params, rule, state)
        got, state = learnt_by_lif(part, part_grad, constants, params, rule, state)
        assert_agrees(got, want)
        spikes.append(got.spikes)
    assert torch.equal(torch.cat(spikes), whole.spikes)
    assert all(map(torch.equal, state, after))


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=name_of)
def test_one_input_for_all_steps(dtype, steps):
    y, grad = 0.4 * draw_current((1, B, N), dtype)[0], draw_gradient((steps, B, N), dtype)
    constants = draw_constants(N)
    want = learnt_by_reference(y.expand(steps, B, N), grad, constants, LIFParameters(), TSSL())
    leaf = y.clone().requires_grad_()
    spikes = lif(static(leaf, steps), learnt=constants)
    grads = torch.autograd.grad(spikes, (leaf, *constants), grad)
    assert_close("spikes", spikes.detach(), want.spikes)
    assert relative_error(grads[0], want.current.sum(axis=0)) < ERRORS[dtype] + ROUNDING[dtype]
    for name, mine in zip(NAMES, grads[1:], strict=True):
        assert relative_error(mine, getattr(want, name)) < ERRORS[dtype]


@pytest.mark.parametrize("shape", [(), (1,), (4, 1, 1), (4, 3, 5), (2, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
def test_values_are_shared_by_broadcasting(shape, memory):
    """The gradient of a shared value is the sum of its neurons', in whichever order they lie in memory."""
    y = draw_current((12 * 2, 4, 3, 5)).contiguous(memory_format=memory).unflatten(0, (12, 2))
    grad = draw_gradient((12, 2, 4, 3, 5))
    each = LIFConstants(*(torch.full((2, 4, 3, 5), value, dtype=y.dtype, requires_grad=True) for value in (4, 2.5, 1)))
    shared = LIFConstants(*(torch.full(shape, value, dtype=y.dtype, requires_grad=True) for value in (4, 2.5, 1)))
    apart, _ = learnt_by_lif(y, grad, each, LIFParameters(), TSSL())
    got, _ = learnt_by_lif(y, grad, shared, LIFParameters(), TSSL())
    assert torch.equal(got.spikes, apart.spikes)
    assert torch.equal(got.current, apart.current)
    assert got.spikes[0].stride() == y[0].stride()
    for name in NAMES:
        assert getattr(got, name).shape == shape
        assert relative_error(getattr(got, name), getattr(apart, name).sum_to_size(shape)) < 1e-12


@pytest.mark.parametrize("rule", [TSSL(), STBP(), SLAYER()], ids=lambda rule: rule.name)
def test_nothing_but_the_constants_gradient_is_new(rule):
    y, grad, params = draw_current((T, B, N)), draw_gradient((T, B, N)), LIFParameters(4.0, 2.5, 0.9)
    constants = LIFConstants(*(torch.tensor(getattr(params, name), dtype=y.dtype).requires_grad_() for name in NAMES))
    got, _ = learnt_by_lif(y, grad, constants, params, rule)
    leaf = y.clone().requires_grad_()
    spikes = lif(leaf, params, rule=rule)
    spikes.backward(grad)
    assert torch.equal(got.spikes, spikes)
    assert relative_error(got.current, leaf.grad) < 1e-13
    # A constant that is left out is the parameters'.
    only, _ = lif(y, params, rule=rule, learnt=LIFConstants(threshold=constants.threshold), return_state=True)
    assert torch.equal(only, spikes)
    (alone,) = torch.autograd.grad(only, constants.threshold, grad)
    assert relative_error(alone, got.threshold) < 1e-13


def test_no_neurons():
    y, constants = torch.empty(5, 0, 3, requires_grad=True), draw_constants(3)
    lif(y, learnt=constants).sum().backward()
    assert y.grad.shape == y.shape
    assert not constants.tau_mem.grad.any()


@pytest.mark.parametrize(
    ("learns", "reset", "synapse"), [(True, "zero", True), (True, "subtract", False), (False, "zero", True)]
)
@pytest.mark.parametrize("rule", [TSSL(), STBP("sigmoid", width=0.5)], ids=lambda rule: rule.name)
def test_a_run_walked_back_in_parts(rule, learns, reset, synapse):
    """Each part takes the errors of the one after it, and adds to the gradients of the constants."""
    y, grad, params = draw_current((T, 9)), draw_gradient((T, 9)), LIFParameters(reset=reset)
    neuron = {"params": params, "synapse": synapse}
    sums = torch.zeros(3, 9, dtype=y.dtype)
    if learns:
        neuron["constants"] = torch.stack(list(draw_constants(9))).detach()
    backend, given = launchers(y.device), Neuron(params, rule)

    def back(*tensors, params, **options):
        walk_back(*tensors, given, **options)

    def kept(current, state):
        """Spikes as bits, checkpoints, the state before and the state after."""
        steps = len(current)
        words = torch.empty(word_count(steps), 9, dtype=word_dtype(steps))
        checkpoints, after = y.new_empty((checkpoint_rows(steps), 9)), y.new_empty((3, 9))
        backend.lif_forward(current, torch.empty_like(current), words, checkpoints, state, after, **neuron)
        return words, checkpoints, state, after

    rest = torch.zeros(3, 9, dtype=y.dtype)
    whole, whole_sums = torch.empty_like(y), torch.full_like(sums, torch.nan)
    learnt = {"grad_constants": whole_sums} if learns else {}
    back(grad, y, *kept(y, rest)[:3], whole, **neuron, **learnt)

    ends = [0, 9, 10, 11, T]
    starts, state = [], rest
    for first, end in itertools.pairwise(ends):
        starts.append(kept(y[first:end], state))
        state = starts[-1][3]
    carry, parts = torch.zeros(2, 9, dtype=y.dtype), torch.empty_like(y)
    learnt = {"grad_constants": sums} if learns else {}
    for (first, end), start in reversed(list(zip(itertools.pairwise(ends), starts, strict=True))):
        back(grad[first:end], y[first:end], *start[:3], parts[first:end], carry=carry, **neuron, **learnt)
    assert relative_error(parts, whole) < 1e-13
    assert torch.equal(carry[1], parts[0])
    if learns:
        assert relative_error(sums, whole_sums) < 1e-12


@pytest.mark.slow
@pytest.mark.skipif(interpreting(), reason="of the CPU's own windows")
@pytest.mark.parametrize("rule", [TSSL(), STBP("sigmoid")], ids=lambda rule: rule.name)
def test_compiled_windows_are_the_eager_ones(rule, monkeypatch):
    y, grad, constants = draw_current((T, B, N)), draw_gradient((T, B, N)), draw_constants(N)
    params = LIFParameters(reset="subtract")
    eager, _ = learnt_by_lif(y, grad, constants, params, rule)
    monkeypatch.delenv("TSSL_CPU")
    compiled, _ = learnt_by_lif(y, grad, constants, params, rule)
    assert implementation("cpu") == "native"
    assert torch.equal(compiled.spikes, eager.spikes)
    for mine, theirs in zip(compiled[1:], eager[1:], strict=True):
        assert relative_error(mine, theirs) < 1e-12


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((3.0,) * 3, TypeError, "learnt must be LIFConstants, got tuple"),
        (LIFConstants(4.0), TypeError, r"learnt.tau_mem must be a tensor that broadcasts to \(2, 9\), got float"),
        (LIFConstants(torch.ones(2)), ValueError, r"learnt.tau_mem must broadcast to \(2, 9\), got shape \(2,\)"),
        (LIFConstants(None, torch.ones(9).int()), TypeError, "learnt.tau_syn must be a floating tensor, got"),
        (LIFConstants(torch.ones(9, device="meta")), ValueError, "learnt.tau_mem must be on cpu as the input is"),
    ],
)
def test_bad_constants_are_named(given, error, message):
    with pytest.raises(error, match=message):
        lif(draw_current((5, B, N)), learnt=given)
