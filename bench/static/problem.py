"""One kernel of the static report, and the problems that it is compiled and interpreted for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from tssl_triton.kernels.layout import checkpoint_rows, word_count, word_dtype
from tssl_triton.kernels.plan import Launch

from .counting import Loop

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def dtype_name(dtype: torch.dtype) -> str:
    """``fp32``, ``fp16`` or ``bf16``."""
    return next(name for name, value in DTYPES.items() if value == dtype)


@dataclass(frozen=True)
class Problem:
    """``(steps, neurons)`` values of ``dtype``, on device "meta" to study a launch or "cpu" to interpret it."""

    steps: int
    neurons: int
    dtype: torch.dtype
    device: str = "meta"

    def tensor(self, rows: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Zeros ``(rows, neurons)``, of this problem's type by default."""
        return torch.zeros((rows, self.neurons), dtype=dtype or self.dtype, device=self.device)

    def state(self, rows: int) -> torch.Tensor:
        """Zeros ``(rows, neurons)`` in the type of neuron state."""
        return self.tensor(rows, torch.float32)

    def words(self) -> torch.Tensor:
        """A packed spike train."""
        return self.tensor(word_count(self.steps), word_dtype(self.steps))

    @property
    def value_bytes(self) -> int:
        """Bytes of one value: a neuron at one step."""
        return self.dtype.itemsize

    @property
    def word_bytes(self) -> float:
        """Bytes per neuron-step of a packed spike train."""
        return word_count(self.steps) * word_dtype(self.steps).itemsize / self.steps

    @property
    def checkpoint_bytes(self) -> float:
        """Bytes per neuron-step of the checkpoints between windows."""
        return 4 * checkpoint_rows(self.steps) / self.steps


@dataclass(frozen=True)
class Case:
    """One kernel of the report.

    Args:
        name: in tables and for ``--kernels``.
        launch: the launch for a problem.
        compulsory: least bytes per neuron-step that must move, without checkpoints.
        loops: the source's loops; several tuples for several, equally frequent kinds of programs.
        saved: bytes per neuron-step that a layer keeps for backward, where this kernel decides that.
        multiply_adds: of the matrix units, per neuron-step.
        neurons: size for compiling; all programs are full.
        few_neurons: size for counting bytes under the interpreter; the last program is not full.
        dtypes: types that the kernel compiles for.
        targets: compiler targets whose code `bench.static.counting` understands.
        owner: the package that the kernel is from; "" for this one.
        checkpoints: argument whose bytes are counted separately.
        shared: arguments shared by all samples, such as weights; their bytes are left out, as a larger batch would
            make them negligible.
    """

    name: str
    launch: Callable[[Problem], Launch]
    compulsory: Callable[[Problem], float]
    loops: Callable[[Problem, Launch], tuple[tuple[Loop, ...], ...]]
    saved: Callable[[Problem], float] | None = None
    multiply_adds: Callable[[Problem], float] = lambda _: 0.0
    neurons: int = 1 << 20
    few_neurons: int = 272
    dtypes: tuple[str, ...] = tuple(DTYPES)
    targets: tuple[str, ...] = ("sm_80", "sm_90", "sm_100", "gfx942")
    owner: str = ""
    checkpoints: str = "checkpoints_ptr"
    shared: tuple[str, ...] = ()

    def bytes(self, p: Problem) -> int:
        """All bytes that must move for a problem of any size: compulsory, checkpoints and shared arguments."""
        arguments = self.launch(replace(p, device="meta")).arguments
        beside = (arguments.get(name) for name in (self.checkpoints, *self.shared))
        return round(self.compulsory(p) * p.steps * p.neurons) + sum(t.nbytes for t in beside if t is not None)
