"""Losses against their formulas in float64, their gradients, and the class that spikes say."""

import numpy as np
import pytest
import torch
from tssl_triton.reference import spike_count as reference_spike_count

from tssl_triton import losses
from tssl_triton.encoding import target_pattern

TAU_SYN = 3.0
SHAPES = [(1, 1, 2), (5, 4, 10), (33, 3, 7)]

#: float32 sums of at most a few hundred terms of size 1.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


def random_spikes(shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator) < 0.4).to(dtype)


def random_labels(shape, seed=1):
    return torch.randint(0, shape[2], (shape[1],), generator=torch.Generator().manual_seed(seed))


def filtered(spikes):
    """The postsynaptic current, step by step in NumPy."""
    current = np.zeros(spikes.shape[1:])
    steps = []
    for s in spikes.numpy().astype(np.float64):
        current = (1 - 1 / TAU_SYN) * current + s / TAU_SYN
        steps.append(current)
    return np.stack(steps)


def van_rossum(spikes, labels):
    target = target_pattern(labels, spikes.shape[2], steps=len(spikes))
    return 0.5 * ((filtered(spikes) - filtered(target)) ** 2).sum((0, 2))


def spike_train(spikes, labels):
    target = target_pattern(labels, spikes.shape[2], steps=len(spikes)).numpy()
    return 0.5 * ((spikes.numpy() - target) ** 2).sum((0, 2))


def spike_count(spikes, labels, desired=0.75, undesired=0.25):
    return counted(spikes.numpy().astype(np.float64), labels, desired, undesired)


def current_count(spikes, labels, desired=0.75, undesired=0.25):
    return counted(filtered(spikes), labels, desired, undesired)


def counted(values, labels, desired, undesired):
    """One neuron at a time, by the words of the docstring."""
    steps, batch, classes = values.shape
    result = np.zeros(batch)
    for b in range(batch):
        for n in range(classes):
            count = values[:, b, n].sum()
            if n == labels[b]:
                miss = min(count - desired * steps, 0)
            else:
                miss = max(count - undesired * steps, 0)
            result[b] += miss**2 / (2 * steps)
    return result


def softmax(spikes, labels):
    counts = spikes.numpy().sum(0)
    share = np.exp(counts) / np.exp(counts).sum(1, keepdims=True)
    return -np.log(share[np.arange(len(labels)), labels])


def compute(name, spikes, labels, reduction):
    target = target_pattern(labels, spikes.shape[2], steps=len(spikes))
    if name == "van_rossum":
        return losses.van_rossum_loss(spikes, target, TAU_SYN, reduction)
    if name == "spike_train":
        return losses.spike_train_loss(spikes, target, reduction)
    if name in ("spike_count", "current_count"):
        steps = len(spikes)
        tau_syn = TAU_SYN if name == "current_count" else None
        return losses.spike_count_loss(spikes, labels, 0.75 * steps, 0.25 * steps, reduction, tau_syn)
    return losses.softmax_count_loss(spikes, labels, reduction)


REFERENCES = {
    "van_rossum": van_rossum,
    "spike_train": spike_train,
    "spike_count": spike_count,
    "current_count": current_count,
    "softmax": softmax,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", REFERENCES)
def test_losses_equal_their_formulas(name, shape):
    spikes, labels = random_spikes(shape), random_labels(shape)
    expected = torch.from_numpy(REFERENCES[name](spikes, labels))
    for dtype in (torch.float32, torch.float64):
        given = spikes.to(dtype)
        per_sample = compute(name, given, labels, "none")
        torch.testing.assert_close(per_sample.double(), expected, **TOLERANCE)
        torch.testing.assert_close(compute(name, given, labels, "sum").double(), expected.sum(), **TOLERANCE)
        torch.testing.assert_close(compute(name, given, labels, "mean").double(), expected.mean(), **TOLERANCE)


@pytest.mark.parametrize("name", REFERENCES)
def test_gradients_equal_finite_differences(name):
    # Real-valued "spikes" away from the corners of the count loss: the losses are smooth functions of them there.
    shape = (6, 3, 5)
    labels = random_labels(shape)
    spikes = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: compute(name, s, labels, "sum"), (spikes,))


def test_gradient_of_the_count_loss_is_the_missing_rate():
    spikes = torch.zeros(5, 1, 2, requires_grad=True)
    losses.spike_count_loss(spikes, torch.tensor([1]), desired=4, undesired=1).backward()
    expected = torch.zeros(5, 1, 2)
    expected[:, 0, 1] = -4 / 5
    torch.testing.assert_close(spikes.grad, expected)


def test_the_count_of_current_equals_the_reference():
    spikes, labels = random_spikes((30, 4, 10)), random_labels((30, 4, 10))
    expected, gradient = reference_spike_count(spikes.numpy(), labels.numpy(), 15, 3, tau_syn=4.0)
    spikes.requires_grad_()
    loss = losses.spike_count_loss(spikes, labels, 15, 3, tau_syn=4.0)
    loss.backward()
    torch.testing.assert_close(loss.item(), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(spikes.grad, torch.from_numpy(gradient), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["van_rossum", "spike_train", "spike_count"])
def test_a_perfect_output_costs_nothing(name):
    labels = torch.tensor([2, 0])
    spikes = target_pattern(labels, 3, "0111").requires_grad_()
    if name == "spike_count":
        loss = losses.spike_count_loss(spikes, labels, desired=3, undesired=0)
    else:
        target = target_pattern(labels, 3, "0111")
        loss = (
            losses.van_rossum_loss(spikes, target, 3.0)
            if name == "van_rossum"
            else losses.spike_train_loss(spikes, target)
        )
    loss.backward()
    assert loss.item() == 0
    assert spikes.grad.abs().max() == 0


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("name", REFERENCES)
def test_empty_batch(name, reduction):
    result = compute(name, torch.zeros(5, 0, 3), torch.empty(0, dtype=torch.int64), reduction)
    assert result.shape == (() if reduction == "sum" else (0,))
    assert result.sum() == 0


def test_predict_by_count_and_by_current():
    spikes = torch.zeros(5, 2, 3)
    spikes[4, 0, 0] = spikes[0, 0, 1] = 1  # a tie of counts, which the earlier spike wins by its current
    spikes[3:, 1, 2] = spikes[0, 1, 0] = 1
    assert losses.predict(spikes)[1] == 2
    assert losses.predict(spikes, "psc", tau_syn=3.0).tolist() == [1, 2]
    assert losses.predict(spikes).dtype == torch.int64


S = torch.zeros(5, 4, 3)
LABELS = torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: losses.van_rossum_loss(S, S[:4], 3.0),
            ValueError,
            r"target must have the shape of spikes, \(5, 4, 3\), got \(4, 4, 3\)",
        ),
        (lambda: losses.van_rossum_loss(S, None, 3.0), TypeError, r"target must be a tensor \(T, B, N\), got NoneType"),
        (lambda: losses.van_rossum_loss(S, S, 0.5), ValueError, "tau_syn must be .* got 0.5"),
        (
            lambda: losses.van_rossum_loss(S, S, 3.0, "max"),
            ValueError,
            "reduction must be one of 'sum', 'mean', 'none', got 'max'",
        ),
        (lambda: losses.spike_train_loss(S[0], S[0]), ValueError, r"spikes must be \(T, B, N\), got shape \(4, 3\)"),
        (
            lambda: losses.spike_train_loss(S.int(), S),
            TypeError,
            "spikes must be a floating-point tensor, got torch.int32",
        ),
        (lambda: losses.spike_train_loss([1.0], S), TypeError, r"spikes must be a tensor \(T, B, N\), got list"),
        (
            lambda: losses.spike_train_loss(S, S.to("meta")),
            ValueError,
            "target must be on the device of spikes, cpu, got meta",
        ),
        (
            lambda: losses.spike_count_loss(S, LABELS[:2], 4, 1),
            ValueError,
            r"labels must be \(B,\) = \(4,\), got shape \(2,\)",
        ),
        (
            lambda: losses.spike_count_loss(S, LABELS.int(), 4, 1),
            TypeError,
            "labels must be an int64 tensor .* got torch.int32",
        ),
        (
            lambda: losses.spike_count_loss(S, LABELS, 1, 4),
            ValueError,
            "0 <= undesired <= desired <= T, got desired=1, undesired=4, T=5",
        ),
        (lambda: losses.spike_count_loss(S, LABELS, 4, 1, tau_syn=0.5), ValueError, "tau_syn must be .* got 0.5"),
        (lambda: losses.spike_count_loss(S, LABELS, "a", 1), TypeError, "desired must be a finite number, got 'a'"),
        (lambda: losses.spike_count_loss(S, LABELS, 6, 1), ValueError, "got desired=6, undesired=1, T=5"),
        (lambda: losses.softmax_count_loss(S, [0, 0, 0, 0]), TypeError, "labels must be an int64 tensor .* got list"),
        (lambda: losses.softmax_count_loss(S, LABELS + 3), RuntimeError, "index 3 is out of bounds"),
        (lambda: losses.softmax_count_loss(S, LABELS - 100), RuntimeError, "index -100 is out of bounds"),
        (lambda: losses.spike_count_loss(S, LABELS + 3, 4, 1), RuntimeError, "index 3 is out of bounds"),
        (lambda: losses.predict(S[0]), ValueError, r"spikes must be \(T, B, N\), got shape \(4, 3\)"),
        (lambda: losses.predict(S, "psc"), ValueError, "tau_syn must be given with by='psc'"),
        (lambda: losses.predict(S, "first"), ValueError, "by must be 'count' or 'psc', got 'first'"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
