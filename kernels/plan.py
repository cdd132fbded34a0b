"""How a kernel is launched: chosen by a pure function of the problem's size, so that it can be read and tested."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .layout import cdiv


@dataclass(frozen=True)
class LaunchPlan:
    """One program owns ``block`` neurons for all time steps and runs on ``num_warps`` warps of threads."""

    block: int
    num_warps: int

    def grid(self, neurons: int) -> int:
        """Programs that cover ``neurons``."""
        return cdiv(neurons, self.block)


@dataclass(frozen=True)
class Launch:
    """One kernel call, complete but not yet made, so that tools can study what a launcher would do without a GPU.

    Args:
        kernel: the ``@triton.jit`` function.
        grid: programs along each axis.
        arguments: every argument of the kernel by name; tensors may be on the meta device if it is only to be studied.
        num_warps: warps of threads per program.
        num_stages: stages of the software pipeline of loops over matrix tiles; None leaves them to Triton.
        max_registers: of a thread, on NVIDIA; None leaves them to the assembler, which may spill some to run more
            programs at once.
        contract: whether the compiler may round a sum of a product once where it sees fit.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    num_warps: int
    num_stages: int | None = None
    max_registers: int | None = None
    contract: bool = True

    def options(self, nvidia: bool) -> dict[str, Any]:
        """What the compiler is told besides the arguments."""
        options: dict[str, Any] = {
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "enable_fp_fusion": None if self.contract else False,
        }
        if nvidia:
            options["maxnreg"] = self.max_registers
        return {name: value for name, value in options.items() if value is not None}

    def run(self, beside: Tensor) -> None:
        """Launch on the device of ``beside``."""
        with device_guard(beside):
            self.kernel[self.grid](**self.arguments, **self.options(nvidia=torch.version.hip is None))


def device_guard(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be the tensor's ("Pointer argument cannot be accessed")."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()


_forced: LaunchPlan | None = None


def plan_neurons(neurons: int, dtype: torch.dtype = torch.float32, learnt: bool = False) -> LaunchPlan:
    """A plan for kernels that walk time with a block of neurons in registers.

    A thread takes as many neurons as make its accesses 128 bits wide: four of float32, eight of a 16-bit type, whose
    state is float32 all the same; a window's membrane potentials still fit into registers. Where constants are
    ``learnt``, these and the sums of their gradients are registers of each neuron too, and a thread takes two. Small
    layers take smaller blocks, down to one warp, so that their few neurons spread over more of the device: 256 programs
    are about two for each multiprocessor of the large ones.
    """
    if _forced is not None:
        return _forced
    per_warp = 32 * (2 if learnt else 8 if dtype.itemsize == 2 else 4)
    for num_warps in (4, 2):
        plan = LaunchPlan(block=per_warp * num_warps, num_warps=num_warps)
        if plan.grid(neurons) >= 256:
            return plan
    return LaunchPlan(block=per_warp, num_warps=1)


@dataclass(frozen=True)
class TilePlan:
    """One program owns ``block_m`` pixels by ``block_n`` neurons; products are summed ``block_k`` channels at a time.

    In the weight gradient a program owns ``block_k`` channels by ``block_n`` neurons and sums over pixels.
    """

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int

    def blocks(self) -> dict[str, int]:
        """The kernels' arguments."""
        return {"BLOCK_M": self.block_m, "BLOCK_N": self.block_n, "BLOCK_K": self.block_k}

    def tiles_m(self, pixels: int) -> int:
        return cdiv(pixels, self.block_m)

    def tiles_n(self, neurons: int) -> int:
        return cdiv(neurons, self.block_n)


def plan_tiles(neurons: int, channels: int, dtype: torch.dtype, word: torch.dtype, carried: bool = False) -> TilePlan:
    """Tiles of the fused layer, for weights of ``dtype`` and input spikes in words of type ``word``.

    ``carried`` says whether a state comes in or goes out.

    A tile's results stay in registers through all of time: per neuron a sum, a synaptic current, a membrane potential,
    its bits and, for long runs, a postsynaptic current. 64 x 64 neurons over 256 threads take 80 registers of each
    thread's 255 and leave the rest to operands; tensor cores of sm_90 want 64 rows. Words of one byte are read 64
    channels at a time, wider ones 32: 128 bits a thread either way. float32 is multiplied by ordinary arithmetic,
    which holds its operands in registers too: smaller tiles.

    Where neurons or channels are no multiple of 16, each value of a tile needs an address of its own, two registers:
    a smaller tile, or it would spill. A state that is carried leaves no room for wide words beside 64 x 64 neurons.
    """
    block_n = 64 if neurons > 32 else 32 if neurons > 16 else 16
    if dtype.itemsize > 2:
        if block_n > 16:
            return TilePlan(32, 32, 16, num_warps=8, num_stages=2)
        return TilePlan(16, 16, 16, num_warps=4, num_stages=2)
    if neurons % 16 or channels % 16:
        return TilePlan(32, min(block_n, 32), 32, num_warps=8 if block_n > 16 else 4, num_stages=2)
    if word == torch.uint8:
        return TilePlan(64, block_n, 64, num_warps=8, num_stages=3)
    return TilePlan(64, min(block_n, 32) if carried else block_n, 32, num_warps=8, num_stages=2)


@dataclass(frozen=True)
class WeightGradientPlan:
    """Tiles of the weight gradient, and into how many shares the pixels are split so that programs fill a device."""

    tiles: TilePlan
    shares: int


def plan_weight_gradient(pixels: int, weight: Tensor, dtype: torch.dtype) -> WeightGradientPlan:
    """A plan for ``weight (N, C, R, S)``: at least 256 programs where the pixels suffice, at most 64 partial sums."""
    neurons, channels, *kernel = weight.shape
    if dtype.itemsize == 2:
        tiles = TilePlan(64, 64, 64, num_warps=8, num_stages=3)
    else:
        tiles = TilePlan(16, 32, 32, num_warps=4, num_stages=3)
    programs = tiles.tiles_n(neurons) * cdiv(channels, tiles.block_k) * kernel[0] * kernel[1]
    shares = min(cdiv(256, programs), 64, max(1, pixels // (2 * tiles.block_m)))
    return WeightGradientPlan(tiles, shares)


@contextmanager
def forced_plan(plan: LaunchPlan) -> Iterator[None]:
    """Use ``plan`` for every launch inside the ``with`` block, for tests and tuning."""
    global _forced
    before, _forced = _forced, plan
    try:
        yield
    finally:
        _forced = before
