"""Products of packed spikes with the weights of a fully connected layer, on devices that have them (CPUs).

Both functions return None where a dense product is to be taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tssl_triton import cpu

from . import devices
from .packed_spikes import Recipe
from .registration import profiled


def takes_spikes(steps: int, batch: int, weight: Tensor) -> bool:
    """Whether a product of so many steps and samples with ``weight (out, in)`` may be taken from bits."""
    return devices.uses_loops(weight.device) and cpu.takes_spikes(steps, batch, weight.shape, weight.dtype)


def spike_product(recipe: Recipe, tensors: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """``(T, B, out)``, spikes ``(T, B, *)`` times ``weight (out, in)``, plus ``bias``.

    The spikes, dropped out or not, are given as by `PackedSpikes`.
    """
    words, factors = _words_and_factors(recipe, tensors, weight)
    if words is None or (bias is not None and bias.dtype != weight.dtype):
        return None
    return profiled("spike_product", cpu.spike_product, words, recipe.steps, factors, weight, bias)


def spike_weight_gradient(grad: Tensor, recipe: Recipe, tensors: Sequence[Tensor], weight: Tensor) -> Tensor | None:
    """``(out, in)``, the sum over steps and samples of ``grad (T, B, out)`` times such spikes."""
    words, factors = _words_and_factors(recipe, tensors, weight)
    if words is None or grad.dtype != weight.dtype:
        return None
    run = cpu.spike_weight_gradient
    return profiled("spike_weight_gradient", run, grad, words, recipe.steps, factors, weight)


def _words_and_factors(
    recipe: Recipe, tensors: Sequence[Tensor], weight: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Packed spikes and the factors of their dropout; None for what these products do not take."""
    words, *factors = tensors
    if not devices.uses_loops(words.device) or torch.is_autocast_enabled("cpu") or not words.is_contiguous():
        return None, None
    if not recipe.functions:
        return words, None
    dropped = [function for function, _ in recipe.functions] == [torch.mul]
    if dropped and factors[0].dtype == weight.dtype and factors[0].is_contiguous():
        return words, factors[0]
    return None, None
