"""An operator is a plain function call, and goes through PyTorch's dispatcher where something traces it."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tssl_triton import lif, pack_spikes, psc, unpack_spikes
from tssl_triton.operators import pack, registration
from tssl_triton.operators.registration import operator

pytestmark = pytest.mark.usefixtures("eager")


class Noting(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == registration.NAMESPACE:
            self.seen.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def dispatched(monkeypatch):
    """The operators that go through the dispatcher."""
    seen = []
    is_traced = registration.is_traced

    def noting(args):
        seen.append(is_traced(args))
        return seen[-1]

    monkeypatch.setattr(registration, "is_traced", noting)
    return seen


def step(y):
    leaf = y.clone().requires_grad_()
    current = psc(lif(leaf), 3.0)
    current.square().sum().backward()
    words = pack_spikes(current)
    return current.detach(), leaf.grad, words, unpack_spikes(words, len(y))


@pytest.mark.parametrize("steps", [5, 40])
def test_both_ways_are_the_same_bit_for_bit(steps, dispatched):
    y = torch.randn(steps, 3, 50)
    direct = step(y)
    assert dispatched == [False] * 6
    mode = Noting()
    with mode:
        through = step(y)
    assert mode.seen == ["lif_forward", "psc_filter", "psc_filter", "lif_backward", "pack", "unpack"]
    for one, other in zip(direct, through, strict=True):
        assert torch.equal(one, other)


def test_a_profiler_sees_them():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step(torch.randn(5, 2, 3))
    assert "tssl_triton::lif_forward" in {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("tracer", ["meta", "fake", "functorch", "subclass", "compiler"])
def test_what_traces(tracer, dispatched, monkeypatch):
    y = torch.randn(5, 2, 3)
    if tracer == "meta":
        assert pack(y.to("meta"), torch.int32).is_meta
    elif tracer == "fake":
        with torch._subclasses.FakeTensorMode() as mode:
            lif(mode.from_tensor(y))
    elif tracer == "functorch":
        with pytest.warns(UserWarning, match="batching rule"):  # the dispatcher goes one by one
            words = torch.vmap(lambda x: pack(x, torch.int32), 1, 1)(y)
        assert torch.equal(words, pack_spikes(y))
    elif tracer == "subclass":

        class Mine(torch.Tensor):
            pass

        lif(y.as_subclass(Mine))
    else:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        lif(y)
    assert dispatched[0]


def test_grad_mode_is_that_of_the_dispatcher_s_kernels():
    """A function runs below autograd, whatever it is called from."""
    modes = []

    def noted(x: torch.Tensor) -> torch.Tensor:
        modes.append(torch.is_grad_enabled())
        return x.clone()

    noted.__name__ = "noted_for_a_test"
    made = operator(noted)
    made.register_autograd(lambda ctx, grad: grad, lambda ctx, inputs, output: None)
    for requires_grad in (True, False):
        assert made(torch.ones(2, requires_grad=requires_grad)).requires_grad == requires_grad
    assert modes == [False, False]


def test_an_operator_without_gradient_says_so():
    """backward of TSSL-BP has no derivative of its own."""
    y = torch.randn(5, 2, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(lif(y).sum(), y, create_graph=True)
    with pytest.raises(RuntimeError, match="lif_backward"):
        grad.sum().backward()
