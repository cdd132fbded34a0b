"""Small kernels whose loads and stores are known, to test the tools that count them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from tssl_triton.kernels.layout import cdiv
from tssl_triton.kernels.plan import Launch


@triton.jit
def copy_kernel(x_ptr, y_ptr, N, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + n, tl.load(x_ptr + n, mask=n < N), mask=n < N)


@triton.jit
def row_sum_kernel(x_ptr, y_ptr, T, N, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for t in range(T):
        total += tl.load(x_ptr + t * N + n, mask=n < N, other=0.0)
    tl.store(y_ptr + n, total, mask=n < N)


def copy_launch(neurons: int, device: str) -> Launch:
    """``y = x``, 4 bytes read and 4 written for each of ``neurons``."""
    x, y = (torch.zeros(neurons, device=device) for _ in range(2))
    return Launch(copy_kernel, (cdiv(neurons, 128),), {"x_ptr": x, "y_ptr": y, "N": neurons, "BLOCK": 128}, 1)


def row_sum_launch(rows: int, neurons: int, device: str) -> Launch:
    """Sums of ``rows`` rows: one load of 4 bytes per row and neuron in a loop, one store after it."""
    x, y = torch.zeros((rows, neurons), device=device), torch.zeros(neurons, device=device)
    arguments = {"x_ptr": x, "y_ptr": y, "T": rows, "N": neurons, "BLOCK": 512}
    return Launch(row_sum_kernel, (cdiv(neurons, 512),), arguments, 4)
