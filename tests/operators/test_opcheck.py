"""``torch.library.opcheck``: schema, fake tensors, autograd registration and tracing of each operator."""

import pytest
import torch

from tssl_triton.operators import neuron as _ops

pytestmark = pytest.mark.usefixtures("eager")

CONSTANTS = (5.0, 3.0, 1.0, "zero", 8.0, "psc", "released")
RULES = {"tssl": (), "stbp": ("rectangular", 0.9, 1.1, "full"), "slayer": ("exponential", 1.0, 1.0, "none")}


@pytest.mark.parametrize("steps", [5, 40])
@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_lif_forward(rule, steps, carried):
    y = torch.randn(steps, 2, 7, requires_grad=True)
    state = torch.rand(3, 2, 7) if carried else None
    torch.library.opcheck(_ops.lif_forward.registered, (y, state, steps, True, True, carried, *CONSTANTS, *RULES[rule]))


def test_lif_forward_of_a_static_input_without_gradient():
    torch.library.opcheck(_ops.lif_forward.registered, (torch.randn(1, 2, 7), None, 5, True, False, False, *CONSTANTS))


@pytest.mark.parametrize("rule", RULES)
def test_lif_backward(rule):
    y = torch.randn(5, 2, 7)
    _, words, checkpoints, _ = _ops.lif_forward(y, None, 5, True, True, False, *CONSTANTS)
    settings = (None, True, *CONSTANTS, *RULES[rule])
    torch.library.opcheck(_ops.lif_backward.registered, (torch.randn_like(y), y, words, checkpoints, *settings))


@pytest.mark.parametrize("reverse", [False, True])
def test_psc_filter(reverse):
    torch.library.opcheck(
        _ops.psc_filter.registered, (torch.randn(5, 2, 7, requires_grad=True), None, 3.0, reverse, False)
    )
    torch.library.opcheck(_ops.psc_filter.registered, (torch.randn(5, 2, 7), torch.rand(1, 2, 7), 3.0, reverse, True))


def test_packing():
    spikes = (torch.randn(40, 2, 7) > 0).float()
    torch.library.opcheck(_ops.pack.registered, (spikes, torch.int32))
    torch.library.opcheck(_ops.unpack.registered, (_ops.pack(spikes, torch.int32), 40, torch.float32))
