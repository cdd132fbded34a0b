"""What an output spike train is trained towards, and which class it says.

============  ==========================================================================================
van Rossum    ``1/2 sum_t,n (a[t] - d[t])^2`` over postsynaptic currents, eq. (7): spike *times* matter
spike train   ``1/2 sum_t,n (s[t] - s*[t])^2``, the same without the filter: each step on its own
spike count   ``1/(2T) sum_n (c - c*)^2`` with ``c = sum_t s[t]``, or the same sum of the postsynaptic current; a count
              on the right side of its goal is free
softmax       cross entropy of the softmax over spike counts
============  ==========================================================================================

Spikes are ``(T, B, N)``, time first; all losses are differentiable with respect to the spikes. ``reduction``
is ``"sum"`` (over everything, as the authors' released program does), ``"mean"`` (the sum divided by the
batch size B) or ``"none"`` (one number per sample, ``(B,)``).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from tssl_triton._checks import check_finite, check_sequence
from tssl_triton.functional import psc
from tssl_triton.operators import psc_filter, refuse_forward_mode
from tssl_triton.parameters import checked_time_constant

Reduction = Literal["sum", "mean", "none"]
Readout = Literal["count", "psc"]


def van_rossum_loss(spikes: Tensor, target: Tensor, tau_syn: float, reduction: Reduction = "sum") -> Tensor:
    """Van Rossum distance: half the squared difference of postsynaptic currents, eq. (7).

    Args:
        spikes: output spikes, ``(T, B, N)``.
        target: wanted spikes, ``(T, B, N)``; `tssl_triton.encoding.target_pattern` makes them from labels.
        tau_syn: synaptic time constant of the filter, in time steps, >= 1.
        reduction: see the top of this module.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    _check_pair(spikes, target)
    check_sequence("spikes", spikes)
    return _half_squares(spikes, target, checked_time_constant("tau_syn", tau_syn), reduction)


def spike_train_loss(spikes: Tensor, target: Tensor, reduction: Reduction = "sum") -> Tensor:
    """Half the squared difference of two spike trains, step by step; arguments as in `van_rossum_loss`."""
    _check_pair(spikes, target)
    return _half_squares(spikes, target, None, reduction)


def spike_count_loss(
    spikes: Tensor,
    labels: Tensor,
    desired: float,
    undesired: float,
    reduction: Reduction = "sum",
    tau_syn: float | None = None,
) -> Tensor:
    """Half the squared distance of each neuron's spike count from its goal, divided by T.

    A count beyond its goal costs nothing: the labelled class may fire more than ``desired`` times, the others
    less than ``undesired`` times. The division by T makes the gradient at each step the missing (or surplus)
    firing rate, ``(count - goal)/T``.

    With ``tau_syn`` the count is the sum over time of the postsynaptic current, ``c = sum_t a[t]``, as in the
    released program. A spike at step t counts ``1 - beta^(T - t)`` there, with steps from 0: nearly 1 if early,
    1/tau_syn at the last step. So early spikes count more, and the gradient reaches step t filtered backwards,
    ``(count - goal)/T (1 - beta^(T - t))``.

    Args:
        spikes: output spikes, ``(T, B, N)``.
        labels: class of each sample, ``(B,)``, int64, in ``[0, N)``; a label out of range is an error that
            the device raises (an IndexError or RuntimeError on the CPU).
        desired: wanted count of the labelled class, in ``[0, T]``.
        undesired: highest free count of every other class, in ``[0, desired]``.
        reduction: see the top of this module.
        tau_syn: synaptic time constant, in time steps, >= 1, to count postsynaptic current; None to count spikes.

    Raises:
        TypeError, ValueError: naming the argument.

    Source: the authors' released program, whose output layer hands its loss postsynaptic currents.
    """
    _check_labelled(spikes, labels)
    steps = spikes.shape[0]
    check_finite("desired", desired)
    check_finite("undesired", undesired)
    if not 0 <= undesired <= desired <= steps:
        raise ValueError(
            "desired and undesired must satisfy 0 <= undesired <= desired <= T, "
            f"got desired={desired}, undesired={undesired}, T={steps}"
        )
    surplus = (spikes if tau_syn is None else psc(spikes, tau_syn)).sum(0)
    goal = torch.full_like(surplus, undesired).scatter_(1, labels[:, None], desired)
    surplus = surplus - goal
    labelled = torch.zeros_like(surplus, dtype=torch.bool).scatter_(1, labels[:, None], True)
    missing_or_extra = torch.where(labelled, surplus.clamp(max=0), surplus.clamp(min=0))
    return _reduce(missing_or_extra.square().sum(1) / (2 * steps), reduction)


def softmax_count_loss(spikes: Tensor, labels: Tensor, reduction: Reduction = "sum") -> Tensor:
    """Cross entropy of the softmax over spike counts; ``spikes`` ``(T, B, N)``, ``labels`` ``(B,)`` int64.

    Raises:
        TypeError, ValueError: naming the argument. A label out of range is an error that torch raises.
    """
    _check_labelled(spikes, labels)
    chances = F.log_softmax(spikes.sum(0), dim=1)
    # Not F.cross_entropy: it passes over labels of -100.
    return _reduce(-chances.gather(1, labels[:, None]).squeeze(1), reduction)


def predict(spikes: Tensor, by: Readout = "count", tau_syn: float | None = None) -> Tensor:
    """The class that each sample's output spikes say, ``(B,)`` int64.

    Args:
        spikes: output spikes, ``(T, B, N)``.
        by: ``"count"`` takes the neuron with most spikes, ``"psc"`` the one with the largest postsynaptic
            current summed over time, which lets earlier spikes weigh more and so breaks most ties of counts.
            Equal scores go to one of the tied classes.
        tau_syn: synaptic time constant, needed for ``"psc"`` only.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    _check_spikes("spikes", spikes)
    if by == "count":
        return spikes.sum(0).argmax(1)
    if by == "psc":
        if tau_syn is None:
            raise ValueError("tau_syn must be given with by='psc'")
        return psc(spikes, tau_syn).sum(0).argmax(1)
    raise ValueError(f"by must be 'count' or 'psc', got {by!r}")


def _half_squares(spikes: Tensor, target: Tensor, tau_syn: float | None, reduction: Reduction) -> Tensor:
    refuse_forward_mode([spikes, target])
    if reduction == "sum":
        return _HalfSquares.apply(spikes, target, tau_syn, True)[0]
    return _reduce(_HalfSquares.apply(spikes, target, tau_syn, False)[0], reduction)


class _HalfSquares(torch.autograd.Function):
    """Half the squared difference of two spike trains, filtered or as they are, as one node where autograd would have
    five: of the ``whole`` or of each sample. The difference comes out as well, so that backward has a gradient too."""

    @staticmethod
    def forward(ctx: Any, spikes: Tensor, target: Tensor, tau_syn: float | None, whole: bool) -> tuple[Tensor, Tensor]:
        difference = spikes - target.to(spikes.dtype)
        # The filter is linear: the difference of two currents is the current of the difference.
        if tau_syn is not None:
            difference = psc_filter(difference, None, tau_syn, False, False)[0]
        ctx.save_for_backward(difference)
        ctx.tau_syn, ctx.target = tau_syn, target.dtype
        ctx.set_materialize_grads(False)
        squares = difference.square()
        return (squares.sum() if whole else squares.sum((0, 2))).mul_(0.5), difference

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, of_difference: Tensor | None) -> tuple[Tensor | None, ...]:
        (difference,) = ctx.saved_tensors
        found = of_difference
        if grad is not None:
            found = (grad[:, None] if grad.dim() else grad) * difference
            found = found if of_difference is None else found + of_difference
        if found is None:
            return None, None, None, None
        if ctx.tau_syn is not None:
            found = psc_filter(found, None, ctx.tau_syn, True, False)[0]
        return found, -found.to(ctx.target) if ctx.needs_input_grad[1] else None, None, None


def _reduce(per_sample: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "sum":
        return per_sample.sum()
    if reduction == "mean":
        return per_sample.mean()
    if reduction == "none":
        return per_sample
    raise ValueError(f"reduction must be one of {', '.join(map(repr, get_args(Reduction)))}, got {reduction!r}")


def _check_spikes(name: str, spikes: Tensor) -> None:
    if not isinstance(spikes, Tensor):
        raise TypeError(f"{name} must be a tensor (T, B, N), got {type(spikes).__name__}")
    if spikes.dim() != 3:
        raise ValueError(f"{name} must be (T, B, N), got shape {tuple(spikes.shape)}")
    if not spikes.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {spikes.dtype}")


def _check_pair(spikes: Tensor, target: Tensor) -> None:
    _check_spikes("spikes", spikes)
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a tensor (T, B, N), got {type(target).__name__}")
    if target.shape != spikes.shape:
        raise ValueError(f"target must have the shape of spikes, {tuple(spikes.shape)}, got {tuple(target.shape)}")
    if target.device != spikes.device:
        raise ValueError(f"target must be on the device of spikes, {spikes.device}, got {target.device}")


def _check_labelled(spikes: Tensor, labels: Tensor) -> None:
    _check_spikes("spikes", spikes)
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        given = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be an int64 tensor (B,), got {given}")
    if labels.shape != spikes.shape[1:2]:
        raise ValueError(f"labels must be (B,) = ({spikes.shape[1]},), got shape {tuple(labels.shape)}")
    if labels.device != spikes.device:
        raise ValueError(f"labels must be on the device of spikes, {spikes.device}, got {labels.device}")
