"""Autocast settings of a device: the type that it casts to, or None where it is off or unavailable."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

_AS_IT_IS = nullcontext()


def autocast_dtype(device: str) -> torch.dtype | None:
    """The type that autocast casts to now on devices of this type; None where it is off."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def set_autocast(device: str, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """A block in which autocast casts to ``dtype``, as `autocast_dtype` returned it; None turns it off."""
    if not torch.amp.is_autocast_available(device) or (dtype is None and not torch.is_autocast_enabled(device)):
        return _AS_IT_IS
    # Without its cache of cast weights: backward may run in another thread, long after forward's cache was emptied.
    return torch.autocast(device, dtype, dtype is not None, cache_enabled=False)
