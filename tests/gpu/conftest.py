"""Fixtures of the tests that need a device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def exact_products() -> Iterator[None]:
    """Products and convolutions in full float32, or 16 bits summed in it, by algorithms that repeat their bits."""
    import torch

    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    matmul = torch.backends.cuda.matmul
    reduced = matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_fp16_reduced_precision_reduction = matmul.allow_bf16_reduced_precision_reduction = False
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
    torch.set_float32_matmul_precision(precision)
    matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction = reduced


@pytest.fixture
def exact_convolutions(exact_products: None) -> Iterator[None]:
    """Convolutions in float32 as matrix products.

    The weight gradient of cuDNN's for a 5x5 kernel is off by up to 2e-3 without TF32 too (docs/gpu.md).
    """
    import torch

    with torch.backends.cudnn.flags(enabled=False):
        yield


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """An operation that makes the host wait for the device raises."""
    import torch

    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(autouse=True)
def _freed() -> Iterator[None]:
    """Each test starts with the device's memory its own."""
    import gc

    import torch

    yield
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
