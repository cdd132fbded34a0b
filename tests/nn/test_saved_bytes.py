"""What a training step keeps for backward: weighted inputs and bits, or bits alone; never float spikes."""

import gc
import weakref
from collections import defaultdict

import pytest
import torch
from tssl_triton.kernels.layout import checkpoint_rows

from tssl_triton import (
    LIFConstants,
    LIFParameters,
    SpikePool2d,
    SpikingConv2d,
    SpikingLinear,
    SpikingRecurrent,
    SpikingSequential,
    TimeSharedDropout,
    encoding,
    lif,
)

Y = {torch.float32: 4.0, torch.float16: 2.0, torch.bfloat16: 2.0}


def bits(steps):
    """Bound on the bytes per neuron-step of packed spikes: one bit each, and a byte holds only five at T = 5."""
    return 0.2 if steps == 5 else 0.13


@pytest.fixture(autouse=True)
def _eager(eager):
    pass


def saved_by(function):
    """Tensors that autograd keeps for ``function()``, each storage once, and the result."""
    saved = {}

    def keep(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = function()
    return [tensor for tensor in saved.values() if tensor.numel()], result


def size(tensors):
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def checkpoints_of(saved, steps):
    """The float32 states ``(3 (windows - 1), B, *)`` that runs of several windows keep."""
    return [t for t in saved if t.dtype == torch.float32 and len(t) == checkpoint_rows(steps) > 0]


@pytest.mark.parametrize("dtype", Y)
@pytest.mark.parametrize("steps", [5, 8, 32, 96])
def test_bytes_per_neuron_step_of_the_neuron(steps, dtype):
    y = torch.randn(steps, 4, 100, dtype=dtype, requires_grad=True)
    saved, _ = saved_by(lambda: lif(y, LIFParameters()))
    checkpoints = checkpoints_of(saved, steps)
    assert size(checkpoints) <= 12 / 8 * y.numel()
    assert bool(checkpoints) == (steps > 8)
    assert (size(saved) - size(checkpoints)) / y.numel() <= Y[dtype] + bits(steps)


def test_learnt_constants_are_three_numbers_per_neuron_more():
    y = torch.randn(32, 4, 100, requires_grad=True)
    constants = LIFConstants(tau_mem=torch.full((100,), 5.0, requires_grad=True))
    fixed, learnt = (size(saved_by(lambda given=given: lif(y, learnt=given))[0]) for given in (None, constants))
    assert learnt - fixed == 12 * y[0].numel()


@pytest.mark.parametrize("steps", [8, 32, 96])
def test_bytes_per_neuron_step_of_a_recurrent_layer(steps):
    layer = SpikingRecurrent(10, 100)
    x = torch.randn(steps, 4, 10)
    saved, spikes = saved_by(lambda: layer(x))
    kept = size(saved) - size([x, *layer.parameters()])
    # As other layers, and the state before the first step.
    assert kept / spikes.numel() <= Y[torch.float32] + bits(steps) + 12 / 8


def layers(recompute):
    """Layers of 4 x 8 x 8, 6 x 6 x 6, 40 and 32 neurons, all fed with spikes but the first."""
    options = {"weight_scale": 3.0, "recompute": recompute}
    return SpikingSequential(
        SpikingConv2d(2, 4, 3, padding=1, **options),
        SpikingConv2d(4, 6, 3, **options),
        SpikingLinear(216, 40, **options),
        SpikingLinear(40, 32, bias=True, **options),
    )


NEURONS = 4 * 8 * 8 + 6 * 6 * 6 + 40 + 32


def kept_by_layers(steps, recompute, dtype=torch.float32, autocast=False):
    """What the network keeps besides its weights and its own input: checkpoints and others, bytes per neuron-step."""
    torch.manual_seed(0)
    net = layers(recompute).to(torch.float32 if autocast else dtype)
    x = torch.randn(steps, 4, 2, 8, 8, dtype=torch.float32 if autocast else dtype)

    def run():
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return net(x)

    saved, spikes = saved_by(run)
    assert spikes.any()
    assert spikes.dtype == dtype
    # By their sizes, which nothing else here has: autocast keeps a cast copy of what it is given.
    given = {x.numel(), *(weight.numel() for weight in net.parameters())}
    others = [t for t in saved if t.numel() not in given]
    checkpoints = checkpoints_of(others, steps)
    unit = steps * 4 * NEURONS
    return size(checkpoints) / unit, (size(others) - size(checkpoints)) / unit


@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [(torch.float32, False), (torch.float16, False), (torch.bfloat16, False), (torch.bfloat16, True)],
)
@pytest.mark.parametrize("steps", [5, 8, 32])
def test_bytes_per_neuron_step_of_layers(steps, dtype, autocast):
    checkpoints, others = kept_by_layers(steps, False, dtype, autocast)
    assert others <= Y[dtype] + bits(steps)
    assert checkpoints <= 12 / 8
    checkpoints, others = kept_by_layers(steps, True, dtype, autocast)
    assert checkpoints == 0
    assert 0 < others <= bits(steps)


def live_floats(smallest):
    """Shapes of the float tensors of at least so many elements that Python can reach."""
    gc.collect()
    found = (t for t in gc.get_objects() if issubclass(type(t), torch.Tensor))
    return {id(t): tuple(t.shape) for t in found if t.is_floating_point() and t.numel() >= smallest}


def test_a_layer_that_recomputes_holds_no_floats_anywhere():
    # Saved tensors are not the only place to keep one: attributes of the graph's nodes, closures, records of packed
    # spikes. None of the floats that come to life in forward, larger than a weight, may live on but the result.
    net = layers(True)
    x = torch.randn(32, 4, 2, 8, 8)
    before = live_floats(4 * 32 * 32)
    saved, spikes = saved_by(lambda: net(x))
    del saved
    after = {key: shape for key, shape in live_floats(4 * 32 * 32).items() if key not in before}
    assert list(after.values()) == [tuple(spikes.shape)]


@pytest.mark.parametrize("recompute", [False, True])
def test_the_graph_goes_with_its_result(recompute):
    net = layers(recompute)
    spikes = net(torch.randn(5, 4, 2, 8, 8))
    node = weakref.ref(spikes.grad_fn)
    del spikes
    gc.collect()
    assert node() is None


@pytest.mark.parametrize("recompute", [False, True])
def test_a_network_keeps_weighted_inputs_and_bits_only(recompute):
    steps, batch = 5, 3
    net = SpikingSequential(
        SpikingConv2d(1, 4, 5, recompute=recompute),
        SpikePool2d(2),
        SpikingConv2d(4, 6, 3, recompute=recompute),
        SpikePool2d(2, "max"),
        TimeSharedDropout(0.1),
        SpikingLinear(54, 10, recompute=recompute),
    )
    net.append(SpikingLinear(10, 10, recompute=recompute))
    for weight in net.parameters():
        weight.data *= 4
    images = torch.randn(batch, 1, 20, 20)
    saved, spikes = saved_by(lambda: net(encoding.static(images, steps)))
    assert spikes.any()
    neurons = [batch * 4 * 16 * 16, batch * 6 * 6 * 6, batch * 10, batch * 10]
    floats = sorted(t.numel() for t in saved if t.is_floating_point())
    weights = [p.numel() for p in net.parameters()]
    mask = batch * 54
    # The first layer's input is static: one y serves all steps.
    y = [] if recompute else [neurons[0], *(steps * n for n in neurons[1:])]
    assert floats == sorted([images.numel(), mask, *weights, *y])
    words = defaultdict(int)
    for tensor in saved:
        if not tensor.is_floating_point():
            words[tensor.dtype] += tensor.numel()
    # One byte per neuron holds five steps; the next layer reads the same bytes.
    assert dict(words) == {torch.uint8: sum(neurons)}
