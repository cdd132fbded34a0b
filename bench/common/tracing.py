"""Kernel launches of a training step, and its synchronisations of host and device, recorded without a GPU.

The step runs on PyTorch's ``meta`` device, whose tensors have shapes but no data. Like a GPU it is not the host, so
copies between the two are visible. Two modes record the step:

* a dispatch mode records every operator of PyTorch below autograd. Layers of `tssl_triton` run on the meta tensors as
  they would on a GPU, as if no mode were active, down to the `Launch`, which is recorded and not made;
* a function mode records conversions of Python data to tensors, which are invisible below autograd on this device.

An operator of PyTorch counts as one launch; convolutions and reductions may take more, which only a profiler shows (see
docs/gpu.md). Launches of this package's kernels are counted exactly.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode

from tssl_triton import _checks, _torch_private
from tssl_triton.nn import fused
from tssl_triton.operators import devices

DEVICE = torch.device("meta")
"""Used in place of a GPU."""

KINDS = (
    "lif forward",
    "lif backward",
    "fused forward",
    "weight gradient",
    "psc",
    "pack, unpack",
    "product",
    "pooling",
    "other",
)
"""Kinds of launches. "weight gradient" is that of fused layers, from packed spikes; "other" are elementwise operators,
reductions and the optimizer.
"""

KERNELS = {
    "lif_forward_kernel": "lif forward",
    "lif_backward_kernel": "lif backward",
    "surrogate_backward_kernel": "surrogate backward",
    "spike_weighted_kernel": "fused forward",
    "weight_gradient_kernel": "weight gradient",
    "psc_kernel": "psc",
    "pack_kernel": "pack, unpack",
    "unpack_kernel": "pack, unpack",
}
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "convolution", "convolution_backward")
POOLING = ("avg_pool2d", "avg_pool2d_backward", "max_pool2d_with_indices", "max_pool2d_with_indices_backward")

ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "resize_")
"""Operators that launch nothing although they are not views."""

READING = ("_local_scalar_dense", "equal", "is_nonzero", "item")
"""Operators that read a number on the host."""

SIZED_BY_VALUES = (
    "masked_select",
    "nonzero",
    "nonzero_numpy",
    "unique_consecutive",
    "unique_dim",
    "_unique",
    "_unique2",
)
"""Operators whose result's size depends on values, for which the host waits."""


@dataclass(frozen=True)
class Call:
    """One operator or kernel launch.

    Args:
        name: such as ``aten.mul.Tensor`` or ``lif_forward_kernel``.
        kind: one of `KINDS`, or ``"none"`` without a launch.
        launches: least number of launches.
        waits: why the host waits for the device; empty if it does not.
    """

    name: str
    kind: str
    launches: int
    waits: str = ""


@dataclass
class Record:
    """All calls, in order."""

    calls: list[Call] = field(default_factory=list)

    def launches(self) -> Counter[str]:
        """Launches by kind."""
        total: Counter[str] = Counter()
        for call in self.calls:
            if call.launches:
                total[call.kind] += call.launches
        return total

    def waits(self) -> list[str]:
        """All reasons to wait, in order."""
        return [f"{call.name}: {call.waits}" for call in self.calls if call.waits]


def record(work: Callable[[], object]) -> Record:
    """Record ``work`` on tensors of `DEVICE`.

    If ``work`` reads a number from the device, it fails there, and the record ends.
    """
    with recording() as seen:
        try:
            work()
        except (NotImplementedError, RuntimeError):
            if not seen.waits():
                raise
    return seen


@contextmanager
def recording() -> Iterator[Record]:
    """A record of the ``with`` block."""
    seen = Record()
    with pretending(seen), _Functions(seen), _Operators(seen):
        yield seen


@contextmanager
def pretending(seen: Record | None = None) -> Iterator[None]:
    """Treat `DEVICE` as a GPU: layers and optimizers accept it and fuse as there; launches are recorded, not made."""
    launch = importlib.import_module("tssl_triton.kernels.launch")
    plan = importlib.import_module("tssl_triton.kernels.plan")
    optimizer = sys.modules["torch.optim.optimizer"]

    def note(self: Any, beside: Tensor) -> None:
        if seen is not None:
            name = self.kernel.__name__
            seen.calls.append(Call(name, KERNELS.get(name, "other"), 1))

    launchers, prefers_fused = devices.launchers, fused.prefers_fused

    def launching(device: torch.device) -> Any:
        return launch if device == DEVICE else launchers(device)

    def prefers(device: str, *sizes: Any) -> bool:
        return prefers_fused("cuda" if device == DEVICE.type else device, *sizes)

    def wait(*_: Any, **__: Any) -> None:
        if seen is not None:
            seen.calls.append(Call("torch.cuda.synchronize", "none", 0, "it says so"))

    with ExitStack() as stack:
        for target, name, value in (
            (_checks, "DEVICES", (*_checks.DEVICES, DEVICE.type)),
            (_torch_private, "dispatch_modes", lambda: 0),
            (_torch_private, "function_modes", lambda: 0),
            (devices, "launchers", launching),
            (fused, "prefers_fused", prefers),
            (plan.Launch, "run", note),
            (torch.cuda, "synchronize", wait),
            (optimizer, "_get_fused_kernels_supported_devices", lambda: ["cpu", "cuda", DEVICE.type]),
            (_foreach_utils, "_get_foreach_kernels_supported_devices", lambda: ["cuda", DEVICE.type]),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        yield


class _Operators(TorchDispatchMode):
    def __init__(self, seen: Record) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # Recorded before the call, since reading a number fails on this device.
        waits = why_it_waits(func, args, kwargs)
        kind, launches = launches_of(func, args)
        self.seen.calls.append(Call(str(func), kind, launches, waits))
        return func(*args, **kwargs)


class _Functions(TorchFunctionMode):
    """Records conversions of Python data to a tensor of the device, which copy from unpinned memory."""

    def __init__(self, seen: Record) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor, torch.asarray):
            device = kwargs.get("device")
            copied = device is not None and torch.device(device) == DEVICE and not isinstance(args[0], Tensor)
        elif func is Tensor.new_tensor:
            copied = args[0].device == DEVICE
        elif func in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            copied = args[0].device == DEVICE and any(isinstance(part, (list, range)) for part in index)
        else:
            copied = False
        if copied:
            self.seen.calls.append(Call(func.__name__, "other", 1, "copies Python data to the device"))
        return func(*args, **kwargs)


def launches_of(func: Any, args: tuple[Any, ...]) -> tuple[str, int]:
    """The kind of an operator and its least number of launches."""
    name = _base(func)
    if func.namespace != "aten" or func.is_view or name in ALLOCATIONS:
        return "none", 0
    if name == "convolution_backward":
        # One each for the gradients of input, weight and bias that are needed.
        return "product", sum(args[-1])
    if name in PRODUCTS:
        return "product", 1
    return ("pooling", 1) if name in POOLING else ("other", 1)


def why_it_waits(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Why the host would wait for a GPU in this operator; empty if it would not."""
    name = _base(func)
    if not args or not isinstance(args[0], Tensor):
        return ""
    here = args[0].device
    if name in READING and here == DEVICE:
        return "reads a number"
    if name in SIZED_BY_VALUES and here == DEVICE:
        return "the size of its result depends on values"
    if name == "repeat_interleave" and kwargs.get("output_size") is None and here == DEVICE:
        return "the size of its result depends on values"
    if name == "_to_copy":
        there = torch.device(kwargs.get("device") or here)
        return f"copies from {here} to {there}" if there != here else ""
    if name == "copy_" and args[1].device != here and args[1].dim():
        return f"copies from {args[1].device} to {here}"
    if name in ("index", "index_put", "index_put_") and here == DEVICE:
        for index in args[1]:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                return "the size of its result depends on values"
            if index is not None and index.device != here:
                return f"copies its index from {index.device} to {here}"
    return ""


def _base(func: Any) -> str:
    """``mul`` of ``aten.mul.Tensor``."""
    return func._schema.name.split("::")[1]
