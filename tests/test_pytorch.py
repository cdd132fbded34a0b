"""What people do with modules of PyTorch's, done with these layers: export, compile, accumulate, load and store."""

import pytest
import torch
from torch import nn

from tssl_triton import (
    LIF,
    SpikePool2d,
    SpikingConv2d,
    SpikingLinear,
    SpikingSequential,
    TimeSharedDropout,
    build_network,
    encoding,
    losses,
)


@pytest.fixture(autouse=True)
def _eager(monkeypatch):
    monkeypatch.setenv("TSSL_CPU", "eager")


class Classifier(nn.Module):
    """Images ``(B, 1, 8, 8)``, presented for 5 steps, to the spikes of a network with every kind of layer."""

    def __init__(self, pool="sum"):
        super().__init__()
        torch.manual_seed(0)
        self.network = build_network("4C3-P2-12", (1, 8, 8), 6, pool=pool, dropout=0.3, weight_scale=2.0)

    def forward(self, images):
        return self.network(encoding.static(images, 5))


def images(count, seed=0):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pool", ["sum", "average", "max"])
def test_an_exported_network_gives_the_same_spikes_for_any_batch(pool):
    net = Classifier(pool).eval()
    exported = torch.export.export(net, (images(3),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with torch.no_grad():
        for count in (2, 3, 64):
            expected = net(images(count, seed=count))
            assert expected.any()
            assert torch.equal(exported.module()(images(count, seed=count)), expected)


def test_a_spike_train_of_any_batch_goes_through_an_exported_file(tmp_path):
    net = build_network("4C3-P2-12", (1, 8, 8), 6, weight_scale=2.0).eval()
    trains = (torch.rand(7, 9, 1, 8, 8, generator=torch.Generator().manual_seed(3)) < 0.5).float()
    shapes = ({1: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(net, (trains[:, :3],), dynamic_shapes=shapes), tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    with torch.no_grad():
        assert torch.equal(loaded(trains), net(trains))


def training_step(net, optimizer, labels):
    """Forward, loss, backward and the optimizer's step, for a batch of images."""

    def step(values):
        spikes = net(values)
        target = encoding.target_pattern(labels, 6, "three-spikes")
        loss = losses.van_rossum_loss(spikes, target, 3.0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def test_a_whole_training_step_compiles_without_a_graph_break():
    results = []
    for compiled in (False, True):
        net = Classifier().eval()  # without dropout, whose masks a compiled step draws otherwise
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, foreach=True)
        step = training_step(net, optimizer, torch.arange(8) % 6)
        torch._dynamo.reset()
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            if compiled:
                step = torch.compile(step, fullgraph=True, backend="aot_eager")
            losses_ = [step(images(8, seed=k)).item() for k in range(3)]
        results.append((losses_, [weight.detach().clone() for weight in net.parameters()]))
    # The same operations, of which the compiler may merge some: last bits of float32.
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-6)
    for one, other in zip(results[1][1], results[0][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_parts_of_a_step_compile_without_a_graph_break():
    """Forward with loss as one graph, and the optimizer's step as another, as it is written most often."""
    net = Classifier().train()
    target = encoding.target_pattern(torch.arange(8) % 6, 6, "three-spikes")
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)

    def forward(values):
        return losses.van_rossum_loss(net(values), target, 3.0)

    explained = torch._dynamo.explain(forward)(images(8))
    assert explained.graph_break_count == 0, explained.break_reasons
    assert explained.graph_count == 1
    before = [weight.detach().clone() for weight in net.parameters()]
    torch.compile(forward, fullgraph=True, backend="aot_eager")(images(8)).backward()
    torch.compile(optimizer.step, fullgraph=True, backend="aot_eager")()
    assert all((weight != old).any() for weight, old in zip(net.parameters(), before, strict=True))


def test_accumulated_gradients_are_those_of_one_large_batch():
    net = Classifier().eval()
    values, labels = images(24), torch.arange(24) % 6
    gradients = []
    for parts in (1, 4, 5):
        net.zero_grad()
        for part, wanted in zip(values.tensor_split(parts), labels.tensor_split(parts), strict=True):
            losses.van_rossum_loss(net(part), encoding.target_pattern(wanted, 6), 3.0).backward()
        gradients.append([weight.grad.clone() for weight in net.parameters()])
    for others in gradients[1:]:
        for whole, other in zip(gradients[0], others, strict=True):
            # Sums of float32 in another order.
            torch.testing.assert_close(other, whole, rtol=1e-5, atol=1e-6 * whole.abs().max().item())


@pytest.mark.parametrize("pool", ["sum", "average", "max"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_batch_may_be_empty(pool, recompute):
    """As the share of a process is, where the last batch has fewer images than there are processes."""
    net = build_network("4C3-P2-12", (1, 8, 8), 6, pool=pool, dropout=0.3, recompute=recompute)
    for x in (encoding.static(torch.empty(0, 1, 8, 8), 5), torch.empty(5, 0, 1, 8, 8)):
        net.zero_grad()
        spikes = net(x)
        assert spikes.shape == (5, 0, 6)
        target = encoding.target_pattern(torch.empty(0, dtype=torch.int64), 6)
        losses.van_rossum_loss(spikes, target, 3.0).backward()
        for weight in net.parameters():
            assert weight.grad.shape == weight.shape
            assert not weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_parameters_and_gradients_in_float32(dtype):
    net = Classifier().eval()
    with torch.autocast("cpu", dtype):
        spikes = net(images(8))
        loss = losses.softmax_count_loss(spikes.float(), torch.arange(8) % 6)
    loss.backward()
    assert spikes.dtype == dtype
    for weight in net.parameters():
        assert weight.dtype == weight.grad.dtype == torch.float32
        assert weight.grad.isfinite().all()
        assert weight.grad.any()


#: Names and shapes that files of weights depend on: they change with a new major version alone.
KEYS = [
    (LIF(), {}),
    (SpikePool2d(2), {}),
    (TimeSharedDropout(0.5), {}),
    (SpikingLinear(3, 4), {"weight": (4, 3)}),
    (SpikingLinear(3, 4, bias=True, recompute=True), {"weight": (4, 3), "bias": (4,)}),
    (SpikingConv2d(2, 4, (3, 1), bias=True), {"weight": (4, 2, 3, 1), "bias": (4,)}),
    (SpikingSequential(SpikingLinear(3, 4), LIF(synapse=False)), {"0.weight": (4, 3)}),
    (
        build_network("4C3-P2-12", (1, 8, 8), 6, dropout=0.5),
        {"0.weight": (4, 1, 3, 3), "3.weight": (12, 36), "5.weight": (6, 12)},
    ),
]


@pytest.mark.parametrize(("layer", "expected"), KEYS, ids=lambda value: type(value).__name__)
def test_names_and_shapes_of_a_state(layer, expected):
    assert {name: tuple(value.shape) for name, value in layer.state_dict().items()} == expected
    assert all(value.dtype == torch.float32 for value in layer.state_dict().values())
