"""Products of packed spikes with weights: the numbers of dense ones, and the sizes that are left to those."""

import os

import pytest
import torch
from comparing import relative_error
from tssl_triton.kernels.layout import word_count, word_dtype

from tssl_triton import cpu

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
    words = spikes.new_empty(word_count(len(spikes)), *spikes.shape[1:], dtype=dtype or word_dtype(len(spikes)))
    cpu.pack(spikes, words)
    return words


def product(spikes, weight, bias=None, factors=None, dtype=None, **options):
    found = cpu.spike_product(packed(spikes, dtype), len(spikes), factors, weight, bias, **options)
    return None if found is None else found[0]


def weight_gradient(grad, spikes, weight, factors=None, dtype=None, **options):
    return cpu.spike_weight_gradient(grad, packed(spikes, dtype), len(spikes), factors, weight, **options)


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
    found = product(spikes, weight, bias), weight_gradient(grad, spikes, weight)
    for name, got, plain, want in zip(("y", "gradient"), found, dense, exact, strict=True):
        assert got.shape == want.shape, name
        assert relative_error(got, want) <= max(3 * relative_error(plain, want), 1e-6), name


@pytest.mark.parametrize(
    ("steps", "batch", "outputs"), [(1, 160, 10), (5, 100, 1), (5, 30, 33), (8, 20, 64), (21, 40, 10)]
)
@pytest.mark.parametrize("drop", [False, True])
def test_a_gradient_of_few_outputs(poisoned, steps, batch, outputs, drop):
    """Unpacking the spikes takes longer than their product with few errors; forward has dense spikes anyway."""
    spikes, weight, grad = drawn(steps, batch, 301, outputs, share=0.9)
    factors = torch.nn.functional.dropout(torch.ones(batch, 301), 0.3) if drop else None
    assert product(spikes, weight, factors=factors) is None
    dropped = spikes if factors is None else spikes * factors
    exact = grad.flatten(0, 1).double().t() @ dropped.flatten(0, 1).double()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(weight_gradient(grad, spikes, weight, factors))
    assert relative_error(results[0], exact) <= 1e-6
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_a_gradient_of_few_outputs_and_little_else():
    spikes, weight, grad = drawn(5, 10, 300, 10)
    assert weight_gradient(grad, spikes, weight) is None


@pytest.mark.parametrize("steps", [2, 5, 8])
def test_inputs_that_all_fire_at_the_same_steps(steps):
    _, weight, grad = drawn(steps, 200, 160, 140)
    spikes = torch.ones(steps, 200, 160)
    spikes[:-1, ::2] = 0
    one = product(spikes, weight, most=1.0), weight_gradient(grad, spikes, weight, most=1.0)
    exact = spikes.double() @ weight.double().t(), grad.flatten(0, 1).double().t() @ spikes.flatten(0, 1).double()
    for found, want in zip(one, exact, strict=True):
        assert relative_error(found, want) <= 1e-6


@pytest.mark.parametrize(("steps", "batch", "inputs", "outputs"), SIZES[2:6])
def test_dropped_spikes(poisoned, steps, batch, inputs, outputs):
    spikes, weight, grad = drawn(steps, batch, inputs, outputs)
    factors = torch.nn.functional.dropout(torch.ones(batch, inputs), 0.3)
    dropped = spikes * factors
    exact = dropped.double() @ weight.double().t(), grad.flatten(0, 1).double().t() @ dropped.flatten(0, 1).double()
    assert relative_error(product(spikes, weight, factors=factors), exact[0]) <= 1e-6
    assert relative_error(weight_gradient(grad, spikes, weight, factors), exact[1]) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_words_of_every_type(dtype):
    spikes, weight, grad = drawn(5, 100, 160, 120)
    assert torch.equal(product(spikes, weight), product(spikes, weight, dtype=dtype))
    assert torch.equal(weight_gradient(grad, spikes, weight), weight_gradient(grad, spikes, weight, dtype=dtype))


@pytest.mark.parametrize("steps", [5, 20])
def test_no_number_of_threads_changes_a_bit(steps):
    spikes, weight, grad = drawn(steps, 90, 203, 170)
    results = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        results.append((product(spikes, weight), weight_gradient(grad, spikes, weight)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_weights_of_silent_inputs_are_not_read():
    spikes, weight, _ = drawn(5, 100, 160, 120)
    spikes[:, :, 7] = 0
    weight[:, 7] = float("nan")
    assert product(spikes, weight).isfinite().all()
    spikes[2, 3, 7] = 1
    assert product(spikes, weight)[2, 3].isnan().all()
    assert not product(torch.zeros_like(spikes), weight).any()


def test_tensors_that_are_not_contiguous():
    spikes, weight, grad = drawn(5, 100, 160, 120)
    factors = torch.nn.functional.dropout(torch.ones(100, 160), 0.3)

    def reordered(x):
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)

    words = reordered(packed(spikes))
    y, _ = cpu.spike_product(words, 5, reordered(factors), reordered(weight), None)
    assert torch.equal(y, product(spikes, weight, factors=factors))
    gradient = cpu.spike_weight_gradient(reordered(grad), words, 5, reordered(factors), reordered(weight))
    assert gradient.is_contiguous()
    assert torch.equal(gradient, weight_gradient(grad, spikes, weight, factors))


# --- which products are taken -----------------------------------------------------------------------------------


def test_what_is_left_to_dense_products(monkeypatch):
    given, weight, grad = drawn(5, 100, 160, 120)
    assert product(given, weight) is not None

    def refused(spikes=given, weight=weight, grad=grad, factors=None):
        without = product(spikes, weight, factors=factors) is None
        return without and weight_gradient(grad, spikes, weight, factors) is None

    assert refused(drawn(5, 100, 160, 120, share=0.9)[0]), "too many active inputs"
    few, once = drawn(5, 110, 160, 120, share=0.4)[0], drawn(1, 550, 160, 120, share=0.7)[0]
    assert product(few, weight) is not None
    assert product(once, weight) is None, "as many active inputs, but at one step only"
    assert refused(factors=torch.ones(100, 160).double())
    assert refused(weight=weight.double(), grad=grad.double())
    assert refused(given[:, :20], grad=grad[:, :20]), "few samples"
    assert refused(weight=weight[:80], grad=grad[..., :80]), "little work"
    with torch.autocast("cpu", torch.bfloat16):
        assert refused()
    monkeypatch.setenv("TSSL_CPU", "eager")
    assert refused()


def test_which_sizes_may_be_taken():
    shape, dtype = (120, 160), torch.float32
    assert cpu.takes_spikes(5, 100, shape, dtype)
    assert not cpu.takes_spikes(5, 100, shape, torch.float64)
    assert not cpu.takes_spikes(5, 79, shape, dtype)
    assert not cpu.takes_spikes(100, 50, shape, dtype), "a window's product is little work"
    assert not cpu.takes_spikes(5, 1 << 24, shape, dtype), "too many to count"
    assert cpu.takes_spikes(100, 55, shape, dtype)
