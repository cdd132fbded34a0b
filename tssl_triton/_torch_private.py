"""The private names of PyTorch that this package uses, each with the reason why no public one will do.

The queries are PyTorch's own functions under a name that says what they answer: a layer asks them in every call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import TorchDispatchMode

# The generator of the CPU's loops records operations in a dispatch mode, which has no public home.
DispatchMode = TorchDispatchMode

# Numbers of active modes, and whether a functorch transform is active. There is no public query.
dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
function_modes: Callable[[], int] = torch._C._len_torch_function_stack
transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active

# Whether an autograd profiler is recording. A ``record_function`` block takes ten microseconds even where none is.
profiling: Callable[[], bool] = torch.autograd._profiler_enabled

# ``saved_tensor_hooks(False)`` is None where no hooks on saved tensors are set. There is no public query; a PyTorch
# without this one is taken to have hooks.
saved_tensor_hooks: Callable[[bool], Any] = getattr(
    torch._C._autograd, "_top_saved_tensors_default_hooks", lambda ignore_is_tracing: True
)

# Whether there are hooks on all modules; and the attributes with the hooks of one. There are no public queries.
has_global_hooks: Callable[[], bool] = _has_any_global_hook
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def forward_mode_active() -> bool:
    """Whether a forward-mode level is open. ``forward_ad.unpack_dual`` raises where none is."""
    return forward_ad._current_level >= 0


def uncompiled(module: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` wrapped, or the module itself. The wrapper has no public way back."""
    return getattr(module, "_orig_mod", module)


def submodules(module: nn.Module) -> list[tuple[str, nn.Module | None]]:
    """Name and module of each child, repeated children included, which ``named_children`` leaves out."""
    return list(module._modules.items())
