"""Products of bit-packed spikes with the weights of a fully connected layer.

An input that is silent in a whole window of time adds nothing to the product or to the weights' gradient. Both list the
active inputs of each sample from the packed spikes and skip the others, so the work is proportional to the share of
active inputs, and dense spikes, four bytes for each bit, are never in memory. Where the share is large, a library's
dense product is faster: the functions then return None.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tssl_triton.kernels.layout import WINDOW, WORD

from . import compiler
from .types import TYPES

MOST_LANES = 16
"""Numbers in the widest vector, up to which scratch memory is rounded."""

LEAST_ROWS = 400
"""Samples times steps of a window that make transposing the weights worthwhile."""

LEAST_WORK = 1 << 23
"""Multiplications of a window's dense product below which that is faster, because calls dominate."""

FEW = 64
"""Outputs up to which the weights' gradient visits every input: listing the active ones takes as long."""

LEAST_SPIKES = 1 << 14
"""Inputs times samples times steps of a window above which such a gradient is faster than one from dense spikes, which
would have to be unpacked first."""


def busy(steps: int) -> float:
    """Average share of active inputs in a window above which dense products are faster.

    Smaller for shorter windows, where a silent input saves less. Measured with ``python -m bench products`` for 400
    inputs and outputs on AVX-512.
    """
    return min(0.6, 0.15 + 0.1 * min(steps, WINDOW))


def takes_spikes(steps: int, batch: int, weight_shape: Sequence[int], weight_dtype: torch.dtype) -> bool:
    """Whether `spike_product` may take so many steps and samples and such weights ``(out, in)``."""
    outputs, inputs = weight_shape
    rows = min(steps, WINDOW) * batch  # of a window's dense product
    large = rows >= LEAST_ROWS and rows * inputs * outputs >= LEAST_WORK
    return large and batch * inputs < 1 << 31 and _indexable(inputs, weight_dtype)


ActiveInputs = list[Tensor]
"""For each window, int32: the offset of each sample's list, the end of the last list, then the lists."""


def spike_product(
    words: Tensor, steps: int, factors: Tensor | None, weight: Tensor, bias: Tensor | None, *, most: float | None = None
) -> tuple[Tensor, ActiveInputs] | None:
    """``(T, B, out)``, the product of spikes with ``weight (out, in)``, plus ``bias``; None: take a dense product.

    The second result is the active inputs, for `spike_weight_gradient`.

    Args:
        words: the packed spikes ``(1.., B, in)``; on another device the answer is None.
        steps: T.
        factors: dropout's factors ``(B, in)``, or None.
        weight, bias: of the layer; bias may be None.
        most: share of active inputs up to which the product is taken; None is `busy`.
    """
    batch, (outputs, inputs) = words.shape[1], weight.shape
    if not takes_spikes(steps, batch, weight.shape, weight.dtype) or not _alike(weight, bias, factors):
        return None
    windows, factors, weight = _windows(words, steps), _contiguous(factors), weight.contiguous()
    active = windows and list_active_inputs(windows, factors, busy(steps) if most is None else most)
    if not windows or not active:
        return None
    y = weight.new_empty(steps, batch, outputs)
    scratch = weight.new_empty(inputs * (outputs + MOST_LANES))
    sizes = batch, inputs, outputs, torch.get_num_threads()
    for window, lists in zip(windows, active, strict=True):
        addresses = weight.data_ptr(), y[window.first].data_ptr(), scratch.data_ptr()
        window.library.product(lists.data_ptr(), _address(factors), *addresses, *sizes)
    return (y if bias is None else y.add_(bias)), active


def spike_weight_gradient(
    grad: Tensor,
    words: Tensor,
    steps: int,
    factors: Tensor | None,
    weight: Tensor,
    active: ActiveInputs | None = None,
    *,
    most: float | None = None,
) -> Tensor | None:
    """``(out, in)``, the sum over steps and samples of ``grad (T, B, out)`` times spikes; None: take a dense product.

    ``active`` is from `spike_product`, or None to list the active inputs here. The other arguments are as there; only
    size and type of ``weight`` matter.
    """
    batch, (outputs, inputs) = words.shape[1], weight.shape
    few = outputs <= FEW and min(steps, WINDOW) * batch * inputs >= LEAST_SPIKES and _indexable(inputs, weight.dtype)
    if not (few or takes_spikes(steps, batch, weight.shape, weight.dtype)) or not _alike(weight, grad, factors):
        return None
    windows, factors, grad = _windows(words, steps), _contiguous(factors), grad.contiguous()
    if not (few or active or not windows):
        active = list_active_inputs(windows, factors, busy(steps) if most is None else most)
    if not windows or not (few or active):
        return None
    gradient = grad.new_empty(outputs, inputs)
    sizes = batch, inputs, outputs, torch.get_num_threads()
    # The last window has the fewest steps and so the widest blocks.
    scratch = grad.new_empty(inputs * (MOST_LANES if few else sizes[-1] * windows[-1].library.block()))
    for k, window in enumerate(windows):
        addresses = _address(factors), grad[window.first].data_ptr(), gradient.data_ptr(), scratch.data_ptr()
        if active and not few:
            window.library.gradient(active[k].data_ptr(), *addresses, *sizes, k > 0)
        else:
            window.library.gradient_of_few(window.word.data_ptr(), *addresses, *sizes, window.bit, k > 0)
    return gradient


def _indexable(inputs: int, dtype: torch.dtype) -> bool:
    """Whether the C++ takes weights of this type and can number so many inputs."""
    return dtype == torch.float32 and inputs < 1 << (32 - WINDOW)


def _alike(weight: Tensor, *others: Tensor | None) -> bool:
    """Whether all are on the CPU and have the type of the weight, which autocast would not change."""
    if weight.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    return all(x is None or x.dtype == weight.dtype for x in others)


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


class _Window(NamedTuple):
    """A window of packed spikes."""

    first: int  # its first step
    word: Tensor  # (B, in), with its bits
    bit: int  # of its first step in a word
    library: Any  # the functions compiled for it


def _windows(words: Tensor, steps: int) -> list[_Window]:
    """The windows of packed spikes; none where there is no compiler."""
    words, found = words.contiguous(), []
    for t in range(0, steps, WINDOW):
        library = _library(words.dtype, min(WINDOW, steps - t), os.environ.get("TSSL_CPU"))
        if library is None:
            return []
        found.append(_Window(t, words[t // WORD], t % WORD, library))
    return found


def list_active_inputs(windows: Sequence[_Window], factors: Tensor | None, most: float) -> ActiveInputs | None:
    """The active inputs of packed spikes, dropped out by ``factors``; None if their average share is above ``most``."""
    batch, inputs = windows[0].word.shape
    total, found = 0, []
    lists, scratch = (torch.empty(batch + 1 + batch * inputs, dtype=torch.int32, device="cpu") for _ in range(2))
    for window in windows:
        addresses = window.word.data_ptr(), _address(factors), lists.data_ptr(), scratch.data_ptr()
        active = window.library.list_active(*addresses, batch, inputs, torch.get_num_threads(), window.bit)
        found.append(lists[: batch + 1 + active].clone())
        total += active
    return found if total / (len(windows) * batch * inputs) <= most else None


@functools.cache
def _library(words: torch.dtype, steps: int, mode: str | None) -> Any:
    """The functions of `csrc/spike_products.cpp` for a window of ``steps`` steps and words of a type.

    None where eager PyTorch is to run; ``mode``, the environment variable ``TSSL_CPU``, has a say in that.
    """
    return compiler.compiled(_compiled, words, steps)


def _compiled(words: torch.dtype, steps: int) -> Any:
    options = f"-DWORD={TYPES[words]}", f"-DWINDOW={steps}"
    library = compiler.library(compiler.read_source("spike_products.cpp"), "-ffp-contract=fast", *options)
    address, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    of_product: list[Any] = [*[address] * 5, *[size] * 3, number]
    library.list_active.argtypes, library.list_active.restype = [*[address] * 4, size, size, number, number], size
    library.block.argtypes, library.block.restype = [], size
    library.product.argtypes, library.product.restype = of_product, None
    library.gradient.argtypes, library.gradient.restype = [*of_product, number], None
    library.gradient_of_few.argtypes, library.gradient_of_few.restype = [*of_product, number, number], None
    return library
