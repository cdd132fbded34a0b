"""Learning rules in layers: every way to run a layer hands the rule on to its backward."""

import pytest
import torch
from comparing import assert_close, relative_error
from judging import SURROGATE_RULES, draw_current

from tssl_triton import (
    SLAYER,
    STBP,
    TSSL,
    PackedSpikes,
    SpikingConv2d,
    SpikingLinear,
    SpikingSequential,
    build_network,
    encoding,
    lif,
    spike_conv2d,
    spike_linear,
)

pytestmark = [pytest.mark.implementation, pytest.mark.usefixtures("eager")]

RULES = [STBP("sigmoid", width=0.5), SLAYER()]
T, B = 9, 1


def network(rule, **options):
    torch.manual_seed(0)
    return SpikingSequential(
        SpikingConv2d(1, 4, 3, weight_scale=3.0, rule=rule, **options),
        SpikingConv2d(4, 6, 2, weight_scale=2.0, rule=rule, **options),
        SpikingLinear(6 * 4, 5, weight_scale=2.0, rule=rule, **options),
    )


def learnt(net, static=True):
    x = torch.randn(B, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    x = (x if static else x.expand(T, *x.shape).clone()).requires_grad_()
    spikes = net(encoding.static(x, T) if static else x)
    weight = torch.randn(spikes.shape, generator=torch.Generator().manual_seed(2))
    (spikes * weight).sum().backward()
    return [spikes.detach(), x.grad, *(parameter.grad for parameter in net.parameters())]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_kept_recomputed_and_fused_layers_agree(rule):
    plain = learnt(network(rule))
    assert plain[0].any()
    assert all(torch.equal(one, other) for one, other in zip(learnt(network(rule, recompute=True)), plain, strict=True))
    fused = learnt(network(rule, fused="always", recompute=rule == SLAYER()))
    assert torch.equal(fused[0], plain[0])
    for got, want in zip(fused[1:], plain[1:], strict=True):
        assert relative_error(got, want) < 5e-6
    other = learnt(network(TSSL()))
    assert torch.equal(other[0], plain[0])
    assert not any(torch.allclose(one, want) for one, want in zip(other[1:], plain[1:], strict=True))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_functions_on_packed_spikes(rule):
    spikes = (torch.rand(3, 2, 4, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    for function, shape in ((spike_linear, (6, 36)), (spike_conv2d, (6, 4, 2, 2))):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
        kept, again = (
            torch.autograd.grad(
                function(PackedSpikes.pack(spikes), weight, rule=rule, recompute=recompute).dense().sum(), weight
            )[0]
            for recompute in (False, True)
        )
        layer = SpikingLinear(36, 6, rule=rule) if function is spike_linear else SpikingConv2d(4, 6, 2, rule=rule)
        with torch.no_grad():
            layer.weight.copy_(weight)
        layer(spikes).sum().backward()
        assert kept.any()
        assert torch.equal(kept, again)
        assert relative_error(kept, layer.weight.grad) < 5e-6


@pytest.mark.parametrize("rule", [SLAYER(), pytest.param("stbp", marks=pytest.mark.slow)], ids=["slayer", "stbp"])
def test_torch_compile_takes_a_layer_as_one_graph(rule):
    layer = SpikingLinear(12, 7, weight_scale=3.0, rule=rule)
    results = []
    for run in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        leaf = draw_current((5, 2, 12), torch.float32).requires_grad_()
        spikes = run(leaf)
        spikes.sum().backward()
        results.append((spikes.detach(), leaf.grad))
    assert results[0][0].any()
    assert torch.equal(results[0][0], results[1][0])
    assert_close("gradient", results[1][1], results[0][1], rtol=1e-5, atol=1e-5)


def test_names_and_rules():
    net = build_network("6C3-20", (1, 8, 8), 10, rule="stbp")
    assert [layer.rule for layer in net] == [STBP()] * 3
    assert all(layer.rule == TSSL() for layer in build_network("20", (8,), 10))
    assert build_network("20", (8,), 10, rule=SLAYER(width=0.5))[0].rule == SLAYER(width=0.5)
    assert "rule=SLAYER(width=1.0, scale=1.0)" in repr(SpikingLinear(3, 4, rule="slayer"))
    assert "rule" not in repr(SpikingLinear(3, 4))
    assert len({rule.surrogate_gradient for rule in SURROGATE_RULES}) == len(SURROGATE_RULES)


def test_the_names_mean_the_defaults():
    y = draw_current((5, 3, 4))
    for name, rule in (("tssl", TSSL()), ("stbp", STBP()), ("slayer", SLAYER())):
        grads = []
        for given in (name, rule):
            leaf = y.clone().requires_grad_()
            lif(leaf, rule=given).sum().backward()
            grads.append(leaf.grad)
        assert torch.equal(*grads)
