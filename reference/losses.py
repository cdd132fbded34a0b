"""Losses on output spikes; each returns the loss and its gradient with respect to the spikes.

Spikes are ``(T, B, classes)``; losses that name no classes take any features. Every loss is a plain sum, over
time, batch and neurons: who wants a mean divides both numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .neuron import Array, psc, with_time_axis
from .phi import psc_backward


def van_rossum(spikes: ArrayLike, target: ArrayLike, tau_syn: float) -> tuple[float, Array]:
    """Van Rossum distance of two spike trains ``(T, *)``, eq. (7): 1/2 sum (psc(target) - psc(spikes))^2."""
    spikes, target = _same_shape(spikes, target)
    error = psc(spikes, tau_syn) - psc(target, tau_syn)
    return float(0.5 * np.sum(error**2)), psc_backward(error, tau_syn)


def squared_spike_error(spikes: ArrayLike, target: ArrayLike) -> tuple[float, Array]:
    """Squared error of two spike trains ``(T, *)``, step by step: 1/2 sum (spikes - target)^2."""
    spikes, target = _same_shape(spikes, target)
    error = spikes - target
    return float(0.5 * np.sum(error**2)), error


def spike_count(
    spikes: ArrayLike, labels: ArrayLike, desired: float, undesired: float, tau_syn: float | None = None
) -> tuple[float, Array]:
    """Spike counts against their goals, as in the released program: 1/(2T) sum (missing or surplus spikes)^2.

    The labelled class errs only by firing less than ``desired`` times, the others only by firing more than
    ``undesired`` times.

    Args:
        spikes: ``(T, B, classes)``.
        labels: class indices, ``(B,)``.
        tau_syn: if given, what is counted is the postsynaptic current, sum_t psc(spikes)[t], as there.
    """
    spikes, labels = _labelled(spikes, labels)
    T, _, classes = spikes.shape
    counted = spikes if tau_syn is None else psc(spikes, tau_syn)
    count = counted.sum(axis=0)
    is_label = labels[:, None] == np.arange(classes)
    missing = np.minimum(count - desired, 0)
    surplus = np.maximum(count - undesired, 0)
    error = np.where(is_label, missing, surplus)
    grad = np.broadcast_to(error / T, spikes.shape).copy()
    return float(np.sum(error**2) / (2 * T)), grad if tau_syn is None else psc_backward(grad, tau_syn)


def softmax_cross_entropy(spikes: ArrayLike, labels: ArrayLike) -> tuple[float, Array]:
    """Cross entropy of a softmax over spike counts: sum_b -log softmax(count[b])[label[b]].

    Args:
        spikes: ``(T, B, classes)``; a class's count over the window is its logit.
        labels: class indices, ``(B,)``.
    """
    spikes, labels = _labelled(spikes, labels)
    count = spikes.sum(axis=0)
    shifted = count - count.max(axis=1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    chosen = np.arange(len(labels)), labels
    loss = -np.sum(log_probability[chosen])

    grad_count = np.exp(log_probability)
    grad_count[chosen] -= 1
    return float(loss), np.broadcast_to(grad_count, spikes.shape).copy()


def _same_shape(spikes: ArrayLike, target: ArrayLike) -> tuple[Array, Array]:
    spikes, target = with_time_axis("spikes", spikes), with_time_axis("target", target)
    if spikes.shape != target.shape:
        raise ValueError(f"spikes and target must have one shape, got {spikes.shape} and {target.shape}")
    return spikes, target


def _labelled(spikes: ArrayLike, labels: ArrayLike) -> tuple[Array, np.ndarray]:
    spikes, labels = with_time_axis("spikes", spikes), np.asarray(labels)
    if spikes.ndim != 3 or labels.shape != spikes.shape[1:2]:
        raise ValueError(
            f"spikes must be (T, B, classes) and labels (B,), got shapes {spikes.shape} and {labels.shape}"
        )
    return spikes, labels
