"""Layers that learn their neurons' constants: how they are held, in which layers, and that they are found."""

import copy
import math

import pytest
import torch
from comparing import assert_close, relative_error
from judging import draw_current
from torch import nn
from torch.nn.utils import parametrize, prune

from tssl_triton import (
    LIF,
    LearnableConstants,
    LIFParameters,
    SpikePool2d,
    SpikingConv2d,
    SpikingLinear,
    SpikingRecurrent,
    SpikingSequential,
    build_network,
    encoding,
    lif,
    losses,
)

pytestmark = pytest.mark.usefixtures("eager")

ALL = ("tau_mem", "tau_syn", "threshold")
PARAMS = LIFParameters(4.0, 2.5, 0.9)


def spike_train(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lif((2.0 * torch.randn(shape, generator=generator)).requires_grad_())


LAYERS = {
    "LIF": (lambda **options: LIF(PARAMS, shape=(3, 1, 1), **options), (3, 1, 1)),
    "linear": (lambda **options: SpikingLinear(108, 7, PARAMS, weight_scale=2.0, **options), (7,)),
    "convolution": (lambda **options: SpikingConv2d(3, 4, 3, PARAMS, weight_scale=2.0, **options), (4, 1, 1)),
    "recurrent": (lambda **options: SpikingRecurrent(108, 7, PARAMS, weight_scale=2.0, **options), (7,)),
}


@pytest.mark.parametrize("per", ["layer", "neuron"])
@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_begins_as_the_fixed_one_and_learns(name, per):
    make, shape = LAYERS[name]
    torch.manual_seed(1)
    fixed = make()
    torch.manual_seed(1)
    learning = make(learn=ALL, per=per)
    x = spike_train(9, 2, 3, 6, 6).detach()
    spikes = learning(x)
    assert spikes.any()
    assert torch.equal(spikes, fixed(x))
    spikes.backward(torch.linspace(-1, 1, spikes.numel()).view_as(spikes))
    for constant in ALL:
        raw = getattr(learning.constants, f"raw_{constant}")
        assert raw.shape == (shape if per == "neuron" else ())
        assert raw.grad.all()
    assert fixed.constants is None
    assert set(fixed.state_dict()) == {key for key in learning.state_dict() if "raw_" not in key}


def test_raw_values_stand_for_constants_in_range():
    made = LearnableConstants(PARAMS, ALL, (3,))
    for name, values in made()._asdict().items():
        assert_close(name, values.detach(), torch.full((3,), getattr(PARAMS, name)), rtol=1e-6)
    with torch.no_grad():
        for raw in made.parameters():
            raw.copy_(torch.tensor([-10.0, 0.0, 10.0]))
    tau_mem, tau_syn, threshold = made()
    assert torch.equal(tau_mem, tau_syn)
    assert 1 < tau_mem[0] < 1.0001
    assert tau_mem[1] == 2
    # alpha = 1 - 1/tau is the sigmoid of the raw value.
    assert_close("alpha", 1 - 1 / tau_mem.detach(), torch.sigmoid(torch.tensor([-10.0, 0.0, 10.0])), atol=1e-7)
    assert (threshold > 0).all()
    assert threshold[1] == 1


def test_gradients_reach_the_raw_values():
    layer = SpikingLinear(12, 5, PARAMS, weight_scale=3.0, learn=("tau_mem", "threshold"), per="neuron").double()
    x = draw_current((8, 2, 12))
    values = layer.constants()._replace()
    leaves = [values.tau_mem.detach().requires_grad_(), values.threshold.detach().requires_grad_()]
    y = layer.weighted(x).detach()
    of_tau, of_threshold = torch.autograd.grad(
        lif(y, PARAMS, learnt=values._replace(tau_mem=leaves[0], threshold=leaves[1])).sum(), leaves
    )
    layer(x).sum().backward()
    assert relative_error(layer.constants.raw_tau_mem.grad, of_tau * (leaves[0] - 1).detach()) < 1e-12
    assert relative_error(layer.constants.raw_threshold.grad, of_threshold * leaves[1].detach()) < 1e-12


def test_only_what_is_named_is_learnt():
    layer = SpikingLinear(3, 4, PARAMS, learn=("threshold",))
    assert [name for name, _ in layer.constants.named_parameters()] == ["raw_threshold"]
    assert layer.constants().tau_mem is None
    assert list(layer.state_dict()) == ["weight", "constants.raw_threshold"]
    assert "threshold: ()" in repr(layer)


class Bounded(nn.Module):
    def forward(self, raw):
        return raw.clamp(-3, 3)


@pytest.mark.parametrize("how", ["parametrization", "pruning"])
def test_values_that_something_else_makes_are_used(how):
    layer, plain = (SpikingLinear(12, 5, PARAMS, weight_scale=3.0, learn=("tau_mem",)) for _ in range(2))
    plain.load_state_dict(layer.state_dict())
    if how == "parametrization":
        parametrize.register_parametrization(layer.constants, "raw_tau_mem", Bounded())
        original = layer.constants.parametrizations.raw_tau_mem.original
    else:
        prune.identity(layer.constants, "raw_tau_mem")
        original = layer.constants.raw_tau_mem_orig
    with torch.no_grad():
        original.fill_(2.0)
        plain.constants.raw_tau_mem.fill_(2.0)
    x = draw_current((8, 2, 12)).float()
    spikes, expected = layer(x), plain(x)
    assert expected.any()
    assert torch.equal(spikes, expected)
    spikes.sum().backward()
    expected.sum().backward()
    assert torch.equal(original.grad, plain.constants.raw_tau_mem.grad)


def test_state_dicts_and_copies():
    one, other = (SpikingLinear(3, 4, LIFParameters(tau), learn=("tau_mem",), per="neuron") for tau in (3.0, 7.0))
    other.load_state_dict(one.state_dict())
    assert_close("tau_mem", other.constants().tau_mem.detach(), torch.full((4,), 3.0), rtol=1e-6)
    assert torch.equal(copy.deepcopy(one).constants.raw_tau_mem, one.constants.raw_tau_mem)


def test_windows_and_static_inputs():
    torch.manual_seed(0)
    net = SpikingSequential(
        SpikingConv2d(1, 3, 3, weight_scale=3.0, learn=ALL, per="neuron"),
        SpikePool2d(2),
        SpikingLinear(12, 5, weight_scale=3.0, learn=("tau_syn",)),
    )
    image = torch.rand(2, 1, 6, 6)
    whole = net(encoding.static(image, 12))
    dense = image.expand(12, *image.shape)
    first, state = net(dense[:5], return_state=True)
    assert whole.any()
    assert torch.equal(torch.cat([first, net(dense[5:], state)]), whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_modules_of_other_types(dtype):
    layer = SpikingLinear(8, 5, weight_scale=3.0, learn=ALL).to(dtype)
    spikes = layer(draw_current((6, 2, 8), dtype))
    spikes.sum().backward()
    assert spikes.dtype == dtype
    assert all(parameter.grad.dtype == dtype for parameter in layer.parameters())
    # exp of a 16-bit raw value is worked out in float32.
    assert layer.constants().tau_mem.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_networks_from_a_string():
    net = build_network("4C3-P2-20", (1, 8, 8), 10, learn=("tau_mem", "threshold"), per="neuron")
    shapes = [layer.constants.raw_tau_mem.shape for layer in net if isinstance(layer, LIF)]
    assert shapes == [(4, 1, 1), (20,), (10,)]
    net(encoding.static(torch.rand(2, 1, 8, 8) * 3, 5)).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_a_fused_neighbour_hands_it_spikes():
    torch.manual_seed(0)
    net = SpikingSequential(
        SpikingLinear(6, 8, weight_scale=3.0, fused="always"),
        SpikingLinear(8, 7, weight_scale=3.0, learn=("tau_mem",)),
        SpikingLinear(7, 5, weight_scale=3.0, fused="always"),
    )
    spikes = net(torch.rand(6, 2, 6))
    spikes = spikes.dense() if not isinstance(spikes, torch.Tensor) else spikes
    spikes.sum().backward()
    assert net[1].constants.raw_tau_mem.grad is not None


@pytest.mark.parametrize("make", [LAYERS["linear"][0], LAYERS["recurrent"][0]], ids=["linear", "recurrent"])
def test_torch_compile_takes_it_as_one_graph(make):
    layer = make(learn=ALL, per="neuron")
    x = draw_current((5, 2, 108), torch.float32)
    results = []
    for run in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        layer.zero_grad()
        spikes = run(x)
        spikes.sum().backward()
        results.append([spikes.detach(), *(parameter.grad.clone() for parameter in layer.parameters())])
    assert results[0][0].any()
    for one, other in zip(*results, strict=True):
        assert relative_error(one, other) < 1e-5


PLANTED = {"tau_mem": (3.0, 8.0), "tau_syn": (5.0, 2.5), "threshold": (0.7, 1.1)}


@pytest.mark.parametrize("rule", ["tssl", "stbp", "slayer"])
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_value_is_found(name, rule):
    """Neurons with the weights of a teacher's but another constant: the teacher's spikes give its own away."""
    start, planted = PLANTED[name]
    torch.manual_seed(0)
    teacher = SpikingLinear(20, 40, LIFParameters(**{name: planted}))
    student = SpikingLinear(20, 40, LIFParameters(**{name: start}), rule=rule, learn=(name,))
    with torch.no_grad():
        student.weight.copy_(teacher.weight)
        x = (torch.rand(16, 16, 20) < 0.5).float() * 1.5
        y, target = student.weighted(x), teacher(x)
    optimizer = torch.optim.Adam(student.constants.parameters(), lr=0.2)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.92)
    trail = []
    for _ in range(45):
        optimizer.zero_grad()
        loss = losses.van_rossum_loss(lif(y, student.params, rule=rule, learnt=student.constants()), target, 3.0)
        loss.backward()
        optimizer.step()
        schedule.step()
        trail.append(loss.item())
    left = abs(math.log(getattr(student.constants(), name).item() / planted)) / abs(math.log(start / planted))
    if (name, rule) == ("tau_mem", "tssl"):
        # TSSL-BP's gradient is no loss's: near an optimum it is biased towards fewer spikes, and tau_mem weighs little.
        assert left < 0.75
        assert trail[-1] < 0.8 * trail[0]
    else:
        assert left < 0.2  # of the distance in log tau; spikes are steps, so the loss is flat near its end
        assert trail[-1] < 0.3 * trail[0]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: LIF(learn="tau_mem"),
            TypeError,
            "learn must be a sequence of names among 'tau_mem', .*, got 'tau_mem'",
        ),
        (lambda: LearnableConstants(5.0, ALL), TypeError, "params must be LIFParameters, got float"),
        (lambda: LIF(learn=("tau",)), ValueError, r"learn must be a sequence of names .*got \('tau',\)"),
        (lambda: LIF(learn=("tau_mem", "tau_mem")), ValueError, "each once"),
        (lambda: LIF(learn=ALL, per="channel"), ValueError, "per must be one of 'layer', 'neuron', got 'channel'"),
        (lambda: LIF(learn=ALL, per="neuron"), ValueError, "shape must be given with per='neuron'"),
        (lambda: LIF(learn=ALL, per="neuron", shape=(0,)), ValueError, "shape must be an integer >= 1, got 0"),
        (lambda: LIF(learn=ALL, synapse=False), ValueError, "learn must leave out 'tau_syn' with synapse=False"),
        (lambda: LIF(LIFParameters(tau_mem=1.0), learn=ALL), ValueError, "tau_mem must be a finite number > 1 to be"),
        (lambda: LIF(LIFParameters(tau_mem=math.inf), learn=ALL), ValueError, "tau_mem must be a finite number > 1"),
        (lambda: SpikingLinear(3, 4, learn=ALL, recompute=True), ValueError, "learn must be empty with recompute=True"),
        (lambda: SpikingConv2d(3, 4, 3, learn=ALL, fused="always"), ValueError, "learn must be empty with .*'always'"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
