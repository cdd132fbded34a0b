"""Products of spikes with weights from packed bits: the numbers of dense ones, and who takes them."""

import os

import pytest
import torch
from comparing import relative_error
from torch.utils.flop_counter import FlopCounterMode
from tssl_triton.kernels.layout import word_dtype

from tssl_triton import SpikingLinear, SpikingSequential, TimeSharedDropout, pack_spikes
from tssl_triton.cpu import spike_products as _spike_products
from tssl_triton.cpu.spike_products import may_take, product, weight_gradient
from tssl_triton.cpu.sum_pooling import SumPool
from tssl_triton.operators.records import Packed

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="this process runs the Triton kernels instead"
)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def drawn(steps, batch, inputs, outputs, share=0.3):
    """Spikes ``(T, B, in)`` of that share of neurons, weights, and a gradient of their product."""
    generator = torch.Generator().manual_seed(steps)
    fires = torch.rand(batch, inputs, generator=generator) < share
    spikes = ((torch.rand(steps, batch, inputs, generator=generator) < 0.6) & fires).float()
    weight = torch.randn(outputs, inputs, generator=generator)
    return spikes, weight, torch.randn(steps, batch, outputs, generator=generator)


def packed(spikes, dtype=None):
    return Packed(pack_spikes(spikes, dtype or word_dtype(len(spikes))), len(spikes))


SIZES = [  # steps, samples, inputs, outputs: whole blocks of outputs and parts of one, of one window and several
    (1, 400, 129, 173),
    (4, 110, 256, 96),
    (5, 80, 165, 130),
    (7, 60, 300, 67),
    (8, 50, 200, 144),
    (13, 50, 201, 131),
    (37, 50, 200, 145),
]


@pytest.mark.parametrize(("steps", "batch", "inputs", "outputs"), SIZES)
def test_as_exact_as_a_dense_product(poisoned, steps, batch, inputs, outputs):
    spikes, weight, grad = drawn(steps, batch, inputs, outputs)
    bias = torch.randn(outputs)
    rows, errors = spikes.flatten(0, 1), grad.flatten(0, 1)
    exact = (spikes.double() @ weight.double().t() + bias.double(), errors.double().t() @ rows.double())
    dense = torch.nn.functional.linear(spikes, weight, bias), errors.t() @ rows
    found = product(packed(spikes), weight, bias), weight_gradient(grad, packed(spikes), weight)
    for name, got, plain, want in zip(("y", "gradient"), found, dense, exact, strict=True):
        assert got.shape == want.shape, name
        assert relative_error(got, want) <= max(3 * relative_error(plain, want), 1e-6), name


@pytest.mark.parametrize(
    ("steps", "batch", "outputs"), [(1, 160, 10), (5, 100, 1), (5, 30, 33), (8, 20, 64), (21, 40, 10)]
)
@pytest.mark.parametrize("drop", [False, True])
def test_a_gradient_of_few_outputs(poisoned, steps, batch, outputs, drop):
    """Dense spikes take longer to make than their product with few errors; a forward pass has them anyway."""
    spikes, weight, grad = drawn(steps, batch, 301, outputs, share=0.9)
    given, mask = packed(spikes), torch.ones(batch, 301)
    if drop:
        mask = torch.nn.functional.dropout(mask, 0.3)
        given = given.followed_by(torch.mul, mask)
    assert product(given, weight, None) is None
    exact = grad.flatten(0, 1).double().t() @ (spikes * mask).flatten(0, 1).double()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(weight_gradient(grad, given, weight))
    assert relative_error(results[0], exact) <= 1e-6
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_a_gradient_of_few_outputs_and_little_else():
    spikes, weight, grad = drawn(5, 10, 300, 10)
    assert weight_gradient(grad, packed(spikes), weight) is None


@pytest.mark.parametrize("steps", [2, 5, 8])
def test_inputs_that_all_fire_at_the_same_steps(steps):
    _, weight, grad = drawn(steps, 200, 160, 140)
    spikes = torch.ones(steps, 200, 160)
    spikes[:-1, ::2] = 0
    one = product(packed(spikes), weight, None, most=1.0), weight_gradient(grad, packed(spikes), weight, most=1.0)
    exact = spikes.double() @ weight.double().t(), grad.flatten(0, 1).double().t() @ spikes.flatten(0, 1).double()
    for found, want in zip(one, exact, strict=True):
        assert relative_error(found, want) <= 1e-6


@pytest.mark.parametrize(("steps", "batch", "inputs", "outputs"), SIZES[2:6])
def test_dropped_spikes(poisoned, steps, batch, inputs, outputs):
    spikes, weight, grad = drawn(steps, batch, inputs, outputs)
    mask = torch.nn.functional.dropout(torch.ones(batch, inputs), 0.3)
    given = packed(spikes).followed_by(torch.mul, mask)
    dropped = spikes * mask
    exact = dropped.double() @ weight.double().t(), grad.flatten(0, 1).double().t() @ dropped.flatten(0, 1).double()
    assert relative_error(product(given, weight, None), exact[0]) <= 1e-6
    assert relative_error(weight_gradient(grad, given, weight), exact[1]) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_words_of_every_type(dtype):
    spikes, weight, grad = drawn(5, 100, 160, 120)
    one, other = packed(spikes), packed(spikes, dtype)
    assert other.words.dtype == dtype
    assert torch.equal(product(one, weight, None), product(other, weight, None))
    assert torch.equal(weight_gradient(grad, one, weight), weight_gradient(grad, other, weight))


@pytest.mark.parametrize("steps", [5, 20])
def test_no_number_of_threads_changes_a_bit(steps):
    spikes, weight, grad = drawn(steps, 90, 203, 170)
    results = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        results.append((product(packed(spikes), weight, None), weight_gradient(grad, packed(spikes), weight)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("steps", [5, 20])
def test_a_gradient_from_what_the_product_found(poisoned, steps):
    spikes, weight, grad = drawn(steps, 90, 203, 170)
    kept = []
    product(packed(spikes), weight, None, kept=kept)
    (listed,) = kept
    active = spikes.any(0).sum() if steps <= 8 else sum(part.any(0).sum() for part in spikes.split(8))
    assert sum(lists.numel() for lists in listed._lists) == active + len(listed._lists) * 91, "no room is kept"
    found = weight_gradient(grad, packed(spikes), weight, known=listed)
    assert torch.equal(found, weight_gradient(grad, packed(spikes), weight))


def test_silence_and_weights_that_are_no_numbers():
    spikes, weight, _ = drawn(5, 100, 160, 120)
    spikes[:, :, 7] = 0
    weight[:, 7] = float("nan")
    assert product(packed(spikes), weight, None).isfinite().all()  # a silent neuron's weight is not read
    spikes[2, 3, 7] = 1
    assert product(packed(spikes), weight, None)[2, 3].isnan().all()
    assert not product(packed(torch.zeros_like(spikes)), weight, None).any()


def test_a_weight_that_is_not_contiguous():
    spikes, weight, grad = drawn(5, 100, 160, 120)
    turned = weight.t().contiguous().t()
    assert torch.equal(product(packed(spikes), turned, None), product(packed(spikes), weight, None))
    gradient = weight_gradient(grad.transpose(0, 1).contiguous().transpose(0, 1), packed(spikes), turned)
    assert torch.equal(gradient, weight_gradient(grad, packed(spikes), weight))


# --- who takes them ---------------------------------------------------------------------------------------------


def test_what_is_left_to_dense_products(monkeypatch):
    spikes, weight, grad = drawn(5, 100, 160, 120)
    given = packed(spikes)
    assert product(given, weight, None) is not None

    def refused(packed=given, weight=weight, grad=grad):
        return product(packed, weight, None) is None and weight_gradient(grad, packed, weight) is None

    assert refused(packed(drawn(5, 100, 160, 120, share=0.9)[0])), "too many fire"
    few, once = drawn(5, 110, 160, 120, share=0.4)[0], drawn(1, 550, 160, 120, share=0.7)[0]
    assert product(packed(few), weight, None) is not None
    assert product(packed(once), weight, None) is None, "as many fire, but at one step only"
    mask = torch.ones(100, 160)
    assert refused(given.followed_by(SumPool((1, 1), 1.1))), "no spikes any more"
    assert refused(given.followed_by(torch.mul, mask).followed_by(torch.mul, mask)), "dropped out twice"
    assert refused(given.followed_by(torch.mul, mask.double()))
    assert refused(weight=weight.double(), grad=grad.double())
    assert refused(packed(spikes[:, :20]), grad=grad[:, :20]), "few samples"
    assert refused(weight=weight[:80], grad=grad[..., :80]), "little work"
    with torch.autocast("cpu", torch.bfloat16):
        assert refused()
    with FlopCounterMode(display=False):
        assert refused()
    monkeypatch.setenv("TSSL_CPU", "eager")
    assert refused()


def test_where_they_may_be_taken():
    weight = torch.empty(120, 160)
    assert may_take(5, 100, weight)
    assert not may_take(5, 100, weight.double())
    assert not may_take(5, 100, weight.to("meta"))
    assert not may_take(5, 79, weight)
    assert not may_take(100, 50, weight), "a window's product is little work"
    assert not may_take(5, 1 << 24, weight), "too many to count"
    assert may_take(100, 55, weight)


def layers(drop):
    torch.manual_seed(1)
    first, second, last = SpikingLinear(90, 160), SpikingLinear(160, 120, bias=True), SpikingLinear(120, 10)
    return SpikingSequential(first, *[TimeSharedDropout(0.2)] * drop, second, last)


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("steps", [5, 20])
def test_a_network_has_the_gradients_of_dense_products(monkeypatch, steps, drop):
    x = 3 * torch.randn(steps, 100, 90, generator=torch.Generator().manual_seed(0))
    taken, results = [], []
    for name in ("product", "weight_gradient"):
        inner = getattr(_spike_products, name)

        def noting(*given, name=name, inner=inner, **options):
            found = inner(*given, **options)
            if found is not None:
                taken.append(name)
            return found

        monkeypatch.setattr(_spike_products, name, noting)
    for allowed in (True, False):
        if not allowed:
            monkeypatch.setattr(_spike_products, "_fits", lambda *given: False)
        net = layers(drop)
        leaf = x.clone().requires_grad_()
        spikes = net(leaf)
        spikes.sum().backward()
        results.append([spikes.detach(), leaf.grad, *(weight.grad for weight in net.parameters())])
        with torch.no_grad():
            torch.manual_seed(1)
            layers(drop)  # as many numbers drawn as before
            assert torch.equal(net(x), spikes), "inference takes the same way"
    assert taken == ["product", "weight_gradient", "weight_gradient", "product"]
    ours, dense = results
    assert ours[0].any()
    assert torch.equal(ours[0], dense[0])
    for one, other in zip(ours[1:], dense[1:], strict=True):
        assert relative_error(one, other) <= 1e-5
