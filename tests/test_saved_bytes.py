"""What a training step keeps for backward: the weighted input and bits, and no float spikes."""

from collections import defaultdict

import pytest
import torch

from tssl_triton import LIFParameters, SpikePool2d, SpikingConv2d, SpikingLinear, SpikingSequential, encoding, lif


@pytest.fixture(autouse=True)
def _eager(monkeypatch):
    monkeypatch.setenv("TSSL_CPU", "eager")


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


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 4.2), (torch.bfloat16, 2.2)])
@pytest.mark.parametrize("steps", [5, 8, 32, 96])
def test_bytes_per_neuron_step_of_the_neuron(steps, dtype, bound):
    y = torch.randn(steps, 4, 100, dtype=dtype, requires_grad=True)
    saved, _ = saved_by(lambda: lif(y, LIFParameters()))
    # Runs of more than one window keep their checkpoints besides: rows (windows, N) of float32 state.
    checkpoints = [t for t in saved if t.dtype == torch.float32 and t.dim() == 2]
    assert size(checkpoints) <= 12 / 8 * y.numel()
    assert (size(saved) - size(checkpoints)) / y.numel() <= bound


def test_a_network_keeps_weighted_inputs_and_bits_only():
    steps, batch = 5, 3
    net = SpikingSequential(
        SpikingConv2d(1, 4, 5), SpikePool2d(2), SpikingConv2d(4, 6, 3), SpikePool2d(2, "max"), SpikingLinear(54, 10)
    )
    net.append(SpikingLinear(10, 10))
    for weight in net.parameters():
        weight.data *= 4
    images = torch.randn(batch, 1, 20, 20)
    saved, spikes = saved_by(lambda: net(encoding.static(images, steps)))
    assert spikes.any()
    neurons = [batch * 4 * 16 * 16, batch * 6 * 6 * 6, batch * 10, batch * 10]
    floats = sorted(t.numel() for t in saved if t.is_floating_point())
    weights = [p.numel() for p in net.parameters()]
    # The first layer's input is static: one y serves all steps.
    y = [neurons[0], *(steps * n for n in neurons[1:])]
    assert floats == sorted([images.numel(), *weights, *y])
    bits = defaultdict(int)
    for tensor in saved:
        if not tensor.is_floating_point():
            bits[tensor.dtype] += tensor.numel()
    # One byte per neuron holds five steps; the next layer reads the same bytes.
    assert dict(bits) == {torch.uint8: sum(neurons)}
