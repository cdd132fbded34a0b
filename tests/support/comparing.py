"""Comparing numbers, NumPy arrays or torch tensors alike, with messages that say where they differ."""

from __future__ import annotations

from typing import Any

import numpy as np


def assert_close(name: str, got: Any, want: Any, atol: float = 0.0, rtol: float = 0.0) -> None:
    """Fail unless ``|got - want| <= atol + rtol |want|`` everywhere and the shapes are equal.

    NaN equals nothing; an infinity equals only itself. The message gives the number of mismatches, the
    largest and the root-mean-square error, and the index and both values of the first mismatch.
    """
    got, want = to_float64(got), to_float64(want)
    if got.shape != want.shape:
        raise AssertionError(f"{name}: got shape {got.shape}, want {want.shape}")
    with np.errstate(invalid="ignore"):
        error = np.where(got == want, 0.0, np.abs(got - want))
        bad = (got != want) & ~((error <= atol + rtol * np.abs(want)) & np.isfinite(want))
    if not bad.any():
        return
    first = tuple(int(index) for index in np.argwhere(bad)[0])
    raise AssertionError(
        f"{name}: {bad.sum()} of {bad.size} differ (atol {atol:g}, rtol {rtol:g}); "
        f"max error {error.max():.3g}, RMS error {np.sqrt(np.mean(error**2)):.3g}; "
        f"first at {first}: got {got[first]!r}, want {want[first]!r}"
    )


def relative_error(got: Any, want: Any) -> float:
    """Largest absolute difference over the largest absolute wanted value; 0 if nothing differs."""
    got, want = to_float64(got), to_float64(want)
    if got.shape != want.shape:
        raise AssertionError(f"got shape {got.shape}, want {want.shape}")
    difference = float(np.abs(got - want).max(initial=0.0))
    scale = float(np.abs(want).max(initial=0.0))
    if difference == 0:
        return 0.0
    return difference / scale if scale else float("inf")


def to_float64(values: Any) -> np.ndarray:
    """A torch tensor of any type and device, or anything NumPy takes, as a float64 array."""
    if hasattr(values, "detach"):
        # Through double, because NumPy has no bfloat16.
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)
