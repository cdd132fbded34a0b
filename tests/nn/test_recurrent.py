"""`SpikingRecurrent` against the reference, and against `SpikingLinear` where nothing is fed back."""

import itertools

import numpy as np
import pytest
import torch
from comparing import assert_close, relative_error
from judging import RESETS, draw_gradient, name_of, settings_of
from tssl_triton.reference import (
    lif_backward,
    lif_constant_gradients,
    recurrent_backward,
    recurrent_forward,
    surrogate_backward,
    surrogate_constant_gradients,
)

from tssl_triton import (
    LIFParameters,
    LIFState,
    PackedSpikes,
    RecurrentState,
    SpikingLinear,
    SpikingRecurrent,
    SpikingSequential,
    encoding,
    losses,
    operators,
)
from tssl_triton.rules import SLAYER, STBP, TSSL

pytestmark = [pytest.mark.implementation, pytest.mark.usefixtures("eager")]

T, B, IN, H = 12, 3, 8, 7
DEFAULTS = LIFParameters()
CONSTANTS = ("tau_mem", "tau_syn", "threshold")
RULES = [TSSL(), STBP("sigmoid", width=0.5), SLAYER(width=0.6)]
EVERY = [(TSSL(), {"variant": v, "warmup": w}) for v, w in itertools.product(["released", "paper"], ["psc", "silent"])]
EVERY += [(TSSL(), {"variant": "no-intra", "warmup": "off"}), (TSSL(), {"warmup": "always"})]
EVERY += [(rule, {}) for rule in (*RULES[1:], STBP("arctan", width=0.4, reset_gradient="detached"))]


def draw_input(steps=T, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(steps, B, IN, generator=generator, dtype=torch.float64) < 0.5).to(dtype)


def layer(params=DEFAULTS, rule=RULES[0], dtype=torch.float64, **options):
    torch.manual_seed(3)
    made = SpikingRecurrent(IN, H, params, bias=True, weight_scale=2.5, recurrent_scale=1.5, rule=rule, **options)
    torch.nn.init.uniform_(made.bias, 0.0, 0.3)
    return made.to(dtype)


def learnt(made, x, grad, state=None):
    leaf = x.clone().requires_grad_()
    spikes, after = made(leaf, state, return_state=True)
    names = ["x", *(name for name, _ in made.named_parameters())]
    grads = torch.autograd.grad(spikes, [leaf, *made.parameters()], grad)
    return spikes.detach(), dict(zip(names, grads, strict=True)), after


def judged(made, x, grad, state=None):
    """Spikes and the same gradients by the reference, in float64, of the numbers that the layer holds."""
    p, values = made.params, {name: part.detach().double().numpy() for name, part in made.named_parameters()}
    x, grad = x.double().numpy(), grad.double().numpy()
    neuron = {name: getattr(p, name) for name in CONSTANTS}
    if made.constants is not None:
        values_of = made.constants()._asdict().items()
        neuron |= {name: float(value.detach()) for name, value in values_of if value is not None}
    neuron["reset"] = p.reset
    if isinstance(made.rule, TSSL):
        options = {"max_slope": p.max_slope, "warmup": p.warmup, "variant": p.variant}
        backward, of_constants = lif_backward, lif_constant_gradients
    else:
        options, backward, of_constants = settings_of(made.rule), surrogate_backward, surrogate_constant_gradients
    start = {} if state is None else {"state": [part.numpy() for part in state[:3]], "before": state.spikes.numpy()}
    feed = np.einsum("oi,tbi->tbo", values["weight"], x) + values["bias"]
    trace, y = recurrent_forward(feed, values["recurrent_weight"], **start, **neuron)
    before = start.get("before")
    found = recurrent_backward(
        trace, values["recurrent_weight"], grad, lambda g: backward(trace, g, **neuron, **options), before
    )
    grads = {
        "x": np.einsum("oi,tbo->tbi", values["weight"], found.feed),
        "weight": np.einsum("tbo,tbi->oi", found.feed, x),
        "recurrent_weight": found.weight,
        "bias": found.feed.sum(axis=(0, 1)),
    }
    factors = {"tau_mem": neuron["tau_mem"] - 1, "tau_syn": neuron["tau_syn"] - 1, "threshold": neuron["threshold"]}
    constants = of_constants(trace, y, found.spikes, **neuron, **options)
    # The raw values' gradients: dtau/draw = tau - 1, dthreshold/draw = threshold.
    for name, factor in factors.items():
        grads[f"constants.raw_{name}"] = factor * getattr(constants, name).sum()
    return trace, grads


def assert_agrees(got, want, error=1e-11):
    spikes, grads, _ = got
    trace, judged_grads = want
    assert 0.1 < trace.spikes.mean() < 0.9
    assert_close("spikes", spikes, trace.spikes)
    for name, mine in grads.items():
        assert judged_grads[name].any(), name
        assert relative_error(mine, judged_grads[name]) < error, name


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize(("rule", "options"), EVERY, ids=str)
def test_every_rule(rule, options, reset):
    made = layer(LIFParameters(reset=reset, **options), rule)
    x, grad = draw_input(), draw_gradient((T, B, H))
    assert_agrees(learnt(made, x, grad), judged(made, x, grad))


@pytest.mark.parametrize("steps", [1, 2, 40])
@pytest.mark.parametrize("rule", RULES[:2], ids=lambda rule: rule.name)
def test_lengths(rule, steps):
    made, x, grad = layer(rule=rule), draw_input(steps), draw_gradient((steps, B, H))
    spikes, grads, _ = learnt(made, x, grad)
    trace, want = judged(made, x, grad)
    assert_close("spikes", spikes, trace.spikes)
    for name, mine in grads.items():
        assert_close(name, mine, want[name], atol=1e-11 * max(np.abs(want[name]).max(), 1e-9))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_float32(rule):
    # x and W make numbers of many sizes; no membrane comes within rounding of the threshold for this seed.
    made, x, grad = layer(rule=rule, dtype=torch.float32), draw_input(dtype=torch.float32), draw_gradient((T, B, H))
    assert_agrees(learnt(made, x, grad.float()), judged(made, x, grad.float()), error=2e-5)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_learnt_constants(rule):
    made = layer(LIFParameters(4.0, 2.5, 0.9), rule, learn=("tau_mem", "tau_syn", "threshold"))
    x, grad = draw_input(), draw_gradient((T, B, H))
    got = learnt(made, x, grad)
    assert sum(name.startswith("constants.raw_") for name in got[1]) == 3
    assert_agrees(got, judged(made, x, grad))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=name_of)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_with_no_feedback_it_is_spiking_linear(rule, dtype):
    made = layer(rule=rule, dtype=dtype)
    torch.nn.init.zeros_(made.recurrent_weight)
    plain = SpikingLinear(IN, H, bias=True, rule=rule).to(dtype)
    plain.load_state_dict({name: part for name, part in made.state_dict().items() if name != "recurrent_weight"})
    x, grad = draw_input(dtype=dtype), draw_gradient((T, B, H), dtype)
    spikes, grads, after = learnt(made, x, grad)
    want, wanted, state = learnt(plain, x, grad)
    assert spikes.any()
    assert torch.equal(spikes, want)
    assert all(map(torch.equal, after[:3], state))
    for name in wanted:
        # The same sums; another order of the products' may round otherwise.
        assert relative_error(grads[name], wanted[name]) < 4 * torch.finfo(dtype).eps, name


@pytest.mark.parametrize("learn", [(), ("tau_mem",)], ids=["fixed", "learnt"])
@pytest.mark.parametrize("rule", RULES[:2], ids=lambda rule: rule.name)
def test_windows(rule, learn):
    made, x, grad = layer(rule=rule, learn=learn), draw_input(), draw_gradient((T, B, H))
    whole, _, after = learnt(made, x, grad)
    state, parts = None, []
    for part, part_grad in zip(x.split([5, 1, 6]), grad.split([5, 1, 6]), strict=True):
        got = learnt(made, part, part_grad, state)
        want_trace, want = judged(made, part, part_grad, state)
        assert_close("spikes", got[0], want_trace.spikes)
        for name, mine in got[1].items():
            assert_close(name, mine, want[name], atol=1e-11 * max(np.abs(want[name]).max(), 1e-9))
        state = got[2]
        parts.append(got[0])
    assert torch.equal(torch.cat(parts), whole)
    assert all(map(torch.equal, state, after))


@pytest.mark.parametrize("learn", [(), ("tau_syn",)], ids=["fixed", "learnt"])
def test_static_input_is_the_dense_one(learn):
    made, x = layer(learn=learn), 0.5 * draw_input(1)[0]
    results = []
    for static in (True, False):
        leaf = x.clone().requires_grad_()
        given = encoding.static(leaf, T)
        spikes = made(given if static else given.dense())
        results.append([spikes.detach(), *torch.autograd.grad(spikes.sum(), [leaf, *made.parameters()])])
    assert results[0][0].any()
    for one, other in zip(*results, strict=True):
        assert relative_error(one, other) < 1e-12


def test_in_a_network_of_windows():
    torch.manual_seed(0)
    net = SpikingSequential(
        SpikingLinear(IN, 10, weight_scale=3.0), SpikingRecurrent(10, H, weight_scale=2.0), SpikingLinear(H, 4)
    )
    x = draw_input(dtype=torch.float32)
    whole = net(x)
    assert isinstance(net[1]._run(net[0](x), None, False, net[2])[0], PackedSpikes)
    first, state = net(x[:5], return_state=True)
    second = net(x[5:], state)
    assert isinstance(state[1], RecurrentState)
    assert torch.equal(torch.cat([first, second]), whole)
    whole.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    with torch.no_grad():
        assert torch.equal(net(x), whole)


@pytest.mark.parametrize("learn", [(), ("tau_mem",)], ids=["fixed", "learnt"])
def test_no_samples(learn):
    made = layer(learn=learn)
    spikes, state = made(torch.zeros(5, 0, IN, dtype=torch.float64), return_state=True)
    spikes.sum().backward()
    assert spikes.shape == (5, 0, H)
    assert state.spikes.shape == (0, H)
    assert not made.recurrent_weight.grad.any()


def test_packed_spikes_are_their_dense_form():
    made, x = layer(dtype=torch.float32), draw_input(dtype=torch.float32)
    assert torch.equal(made(PackedSpikes.pack(x)), made(x))


def test_autocast_is_the_16_bit_layer():
    made, x = layer(dtype=torch.float32), draw_input(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        spikes = made(x)
    assert spikes.dtype == torch.bfloat16
    assert torch.equal(spikes, made.bfloat16()(x.bfloat16()))
    spikes.sum().backward()
    assert made.recurrent_weight.grad.any()


@pytest.mark.skipif(operators.interpreting(), reason="how an operator is registered does not depend on what it runs")
@pytest.mark.parametrize("learnt_too", [False, True])
def test_opcheck(learnt_too):
    x, weight = torch.randn(5, 4, 2).transpose(1, 2).requires_grad_(), torch.randn(4, 4, requires_grad=True)
    constants = torch.full((3, 2, 4), 2.0, requires_grad=True) if learnt_too else None
    neuron = operators.write_settings(LIFParameters())
    arguments = (x, weight, constants, None, torch.ones(2, 4), neuron, 5, True)
    torch.library.opcheck(operators.recurrent_forward.registered, arguments)
    with torch.no_grad():
        _, words, y, states, _ = operators.recurrent_forward(*arguments)
        constants = None if constants is None else constants.detach()
        arguments = (torch.randn(5, 4, 2).transpose(1, 2), y, states, words, weight.detach(), constants)
    torch.library.opcheck(operators.recurrent_backward.registered, (*arguments, torch.ones(2, 4), neuron))


@pytest.mark.skipif(operators.interpreting(), reason="a training; interpreted it would take minutes")
def test_it_learns_what_only_memory_can_tell():
    """Which of two neurons spoke at the first step, asked much later: time constants this short have forgotten it."""
    torch.manual_seed(0)
    steps, params = 10, LIFParameters(tau_mem=1.5, tau_syn=1.5)
    labels = torch.arange(20) % 2
    x = torch.zeros(steps, 20, 2)
    x[0, labels == 0, 0] = x[0, labels == 1, 1] = 4.0
    errors = []
    for recurrent in (True, False):
        hidden = SpikingRecurrent(2, 30, params, weight_scale=2.0) if recurrent else SpikingLinear(2, 30, params)
        net = SpikingSequential(hidden, SpikingLinear(30, 2, params, weight_scale=2.0))
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(25):
            optimizer.zero_grad()
            late = net(x)[steps // 2 :]
            loss = losses.softmax_count_loss(late, labels)
            loss.backward()
            optimizer.step()
        errors.append(float((late.sum(0).argmax(1) != labels).float().mean()))
    assert errors == [0.0, 0.5]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SpikingRecurrent(0, 3), ValueError, "in_features must be an integer >= 1, got 0"),
        (lambda: SpikingRecurrent(3, 0), ValueError, "hidden must be an integer >= 1, got 0"),
        (lambda: SpikingRecurrent(4, 3)(None), TypeError, r"x must be a tensor \(T, B, \*\), got NoneType"),
        (lambda: SpikingRecurrent(3, 3, recurrent_scale="2"), TypeError, "recurrent_scale must be a finite number"),
        (lambda: SpikingRecurrent(4, 3)(torch.zeros(5, 2, 3)), ValueError, "4 features in all, got 3 in shape"),
        (
            lambda: SpikingRecurrent(4, 3)(torch.zeros(5, 2, 4), LIFState(*torch.zeros(3, 2, 3))),
            TypeError,
            "state must be a RecurrentState, got LIFState",
        ),
        (
            lambda: SpikingRecurrent(4, 3)(torch.zeros(5, 2, 4), RecurrentState(*torch.zeros(3, 2, 3), torch.zeros(2))),
            ValueError,
            r"state.spikes must have shape \(2, 3\), got \(2,\)",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
