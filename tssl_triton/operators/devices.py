"""The implementation of the operators on each device.

A CUDA or ROCm tensor runs the Triton kernels or raises; it never falls back. A CPU tensor runs the C++ loops of
`tssl_triton.cpu`, or the Triton kernels under Triton's interpreter where ``TRITON_INTERPRET=1`` asks for them.
"""

from __future__ import annotations

import importlib
import os
import shlex
from collections.abc import Sequence
from types import ModuleType

import torch

from tssl_triton import cpu

_INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"


def interpreting() -> bool:
    """Whether Triton kernels run on CPU tensors, under Triton's interpreter. A process decides once, as Triton does."""
    return _INTERPRETING


def implementation(device: torch.device | str = "cpu") -> str:
    """Name of the implementation on ``device``: ``"triton"``, ``"triton-interpreter"``, ``"native"`` or ``"eager"``."""
    if torch.device(device).type == "cuda":
        return "triton"
    return "triton-interpreter" if interpreting() else cpu.implementation()


def launchers(device: torch.device) -> ModuleType:
    """The module whose functions fill the outputs of operators on ``device``."""
    if device.type == "cpu" and not interpreting():
        return cpu
    # Imported on first use: without Triton the package still runs on a CPU.
    return importlib.import_module("tssl_triton.kernels.launch")


def uses_loops(device: torch.device) -> bool:
    """Whether ``device`` runs the C++ loops, or eager PyTorch in their place."""
    return launchers(device) is cpu


def has_fused_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a layer whose product is in ``dtype`` can run as one kernel on ``device``."""
    return dtype != torch.float64 and not uses_loops(device)


def takes_spikes(
    steps: int, batch: int, weight_shape: Sequence[int], weight_dtype: torch.dtype, device: torch.device
) -> bool:
    """Whether a product of so many steps and samples with weights ``(out, in)`` may be taken from packed spikes.

    A compiler, which may leave the batch open, takes dense products.
    """
    loops = uses_loops(device) and not torch.compiler.is_compiling()
    return loops and cpu.takes_spikes(steps, batch, weight_shape, weight_dtype)


def cpu_compiler() -> str:
    """The command of the C++ compiler for the loops on a CPU, or the reason why there is none."""
    try:
        return shlex.join(cpu.compiler_command())
    except cpu.CompileError as error:
        return str(error)
