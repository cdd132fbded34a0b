"""The private names of PyTorch that this package uses, each with the reason why no public one will do."""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

# A dispatch mode that records operations has no other home; the generator of the CPU's loops derives from it.
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode


def modes_active() -> bool:
    """Whether a dispatch mode, a function mode or a functorch transform is active. There is no public query."""
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._are_functorch_transforms_active()
    )


def profiling() -> bool:
    """Whether an autograd profiler is recording. Entering ``record_function`` unasked takes ten microseconds."""
    return torch.autograd._profiler_enabled()


def forward_mode_active() -> bool:
    """Whether a forward-mode level is open. ``forward_ad.unpack_dual`` raises where none is."""
    return forward_ad._current_level >= 0


def saved_tensors_hooked() -> bool:
    """Whether hooks on saved tensors are set. There is no public query; a PyTorch without this one counts as hooked."""
    hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return hooks is None or hooks(False) is not None


def has_global_hooks() -> bool:
    """Whether ``torch.nn.modules.module`` has hooks on all modules. There is no public query."""
    return _has_any_global_hook()


def has_hooks(module: nn.Module) -> bool:
    """Whether a hook runs before or after the module's ``forward`` or backward. There is no public query."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(hooks)


def uncompiled(module: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` wrapped, or the module itself. The wrapper has no public way back."""
    return getattr(module, "_orig_mod", module)


def submodules(module: nn.Module) -> list[tuple[str, nn.Module | None]]:
    """Name and module of each child, repeated children included, which ``named_children`` leaves out."""
    return list(module._modules.items())
