"""Autocast settings: the one in force, off, and one from before. Devices without autocast have it off."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

_AS_IT_IS = nullcontext()
_available = functools.cache(torch.amp.is_autocast_available)


@dataclass(frozen=True)
class Autocast:
    """An autocast setting of a device, which can be restored later; None is off."""

    device: str
    dtype: torch.dtype | None = None

    @classmethod
    def now(cls, device: str) -> Autocast:
        """The setting in force on devices of this type."""
        if _available(device) and torch.is_autocast_enabled(device):
            return cls(device, torch.get_autocast_dtype(device))
        return cls(device)

    def restored(self) -> AbstractContextManager[Any]:
        """A block in which this setting is in force."""
        if not _available(self.device) or (self.dtype is None and not torch.is_autocast_enabled(self.device)):
            return _AS_IT_IS
        # Without its cache of cast weights: backward may run in another thread, long after forward's cache was emptied.
        return torch.autocast(self.device, self.dtype, self.dtype is not None, cache_enabled=False)
