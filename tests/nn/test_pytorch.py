"""What people do with modules of PyTorch's, done with these layers: export, compile, accumulate, load and store."""

import functools
import inspect

import pytest
import torch
from torch import nn

from tssl_triton import (
    LIF,
    SpikePool2d,
    SpikingConv2d,
    SpikingLinear,
    SpikingRecurrent,
    SpikingSequential,
    TimeSharedDropout,
    build_network,
    encoding,
    losses,
)


@pytest.fixture(autouse=True)
def _eager(eager):
    """Compiling the loops would take longer than these tests; the arithmetic is the same."""


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
    torch.export.save(
        torch.export.export(net, (trains[:, :3].contiguous(),), dynamic_shapes=shapes), tmp_path / "net.pt2"
    )
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    with torch.no_grad():
        assert torch.equal(loaded(trains), net(trains))


def loss_of(net, values):
    labels = torch.arange(len(values)) % 6
    return losses.van_rossum_loss(net(values), encoding.target_pattern(labels, 6), 3.0)


def test_a_whole_training_step_compiles_without_a_graph_break():
    """Forward, loss, backward and a step of gradient descent as one graph."""
    results = []
    for compiled in (False, True):
        net = Classifier().eval()  # without dropout, whose masks a compiled step draws otherwise
        weights = list(net.parameters())

        def step(values, net=net, weights=weights):
            loss = loss_of(net, values)
            gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight.sub_(0.01 * gradient)
            return loss.detach()

        with torch._dynamo.config.patch(trace_autograd_ops=True):
            if compiled:
                step = torch.compile(step, fullgraph=True, backend="aot_eager")
            courses = [step(images(8, seed=k)).item() for k in range(3)]
        results.append((courses, weights))
    # The same operations, of which the compiler may merge some: last bits of float32.
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-6)
    for one, other in zip(results[1][1], results[0][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_forward_with_loss_is_one_graph_and_so_is_an_optimizer():
    explained = torch._dynamo.explain(loss_of)(Classifier().train(), images(8))
    assert explained.graph_break_count == 0, explained.break_reasons
    assert explained.graph_count == 1

    results = []
    for compiled in (False, True):
        net = Classifier().eval()
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
        forward, update = loss_of, optimizer.step
        if compiled:
            forward = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
            # PyTorch's wrapper around it, which turns autograd off, breaks graphs on purpose.
            bare = inspect.unwrap(type(optimizer).step)
            update = torch.compile(functools.partial(bare, optimizer), fullgraph=True, backend="aot_eager")
        forward(net, images(8)).backward()
        with torch.no_grad():
            update()
        results.append(list(net.parameters()))
    for one, other in zip(*results, strict=True):
        # Adam divides a gradient by its size: where it is all rounding, so is a step of 0.01.
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


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
    (SpikingRecurrent(3, 4, bias=True), {"weight": (4, 3), "recurrent_weight": (4, 4), "bias": (4,)}),
    (LIF(learn=("threshold",)), {"constants.raw_threshold": ()}),
    (
        SpikingLinear(3, 4, learn=("tau_mem", "threshold"), per="neuron"),
        {"weight": (4, 3), "constants.raw_tau_mem": (4,), "constants.raw_threshold": (4,)},
    ),
    (
        SpikingConv2d(2, 4, 3, learn=("tau_syn",), per="neuron"),
        {"weight": (4, 2, 3, 3), "constants.raw_tau_syn": (4, 1, 1)},
    ),
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
