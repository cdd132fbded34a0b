"""Peak rates of GPUs from their makers' documents, and the occupancy of a multiprocessor.

In practice a copy reaches about 90 % of the bandwidth, and a busy chip seldom holds its boost clock.
docs/performance.md lists what else the model leaves out.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """Limits of one multiprocessor (AMD: compute unit), and granularity of its registers and shared memory.

    Args:
        target: the compiler's name.
        threads: threads of a warp (AMD: wavefront).
        max_warps: resident warps.
        max_blocks: resident programs.
        registers: 32-bit registers per lane in one of the four parts, shared by its warps.
        register_unit: registers per thread are rounded up to a multiple of this.
        shared: bytes of shared memory.
        shared_unit: shared memory per program is rounded up to a multiple of this.
        shared_reserved: bytes that the system reserves per program.
        source: the document.
    """

    target: str
    threads: int
    max_warps: int
    max_blocks: int
    registers: int
    register_unit: int
    shared: int
    shared_unit: int
    shared_reserved: int
    source: str


PARTS = 4
"""Parts of a multiprocessor (SM sub-partitions, SIMDs), each with its own registers and issue slot."""

_GUIDE = "CUDA C++ Programming Guide, table 'Technical Specifications per Compute Capability'"

SM80 = Architecture("sm_80", 32, 64, 32, 512, 8, 164 << 10, 128, 1 << 10, f"{_GUIDE}, 8.0")
SM90 = Architecture("sm_90", 32, 64, 32, 512, 8, 228 << 10, 128, 1 << 10, f"{_GUIDE}, 9.0")
SM100 = Architecture("sm_100", 32, 64, 32, 512, 8, 228 << 10, 128, 1 << 10, f"{_GUIDE}, 10.0")
GFX942 = Architecture(
    "gfx942", 64, 32, 32, 512, 8, 64 << 10, 512, 0,
    "AMD Instinct MI300 ISA reference guide; LLVM AMDGPU usage: 512 unified vector registers, 8 waves a SIMD",
)  # fmt: skip

ARCHITECTURES = {a.target: a for a in (SM80, SM90, SM100, GFX942)}


def occupancy(architecture: Architecture, registers: int, shared: int, warps: int) -> float:
    """Resident warps over the most that a multiprocessor holds, for programs of ``warps``.

    The published formula: registers are allocated per warp within one of four parts, shared memory per program. The
    scarcest of registers, shared memory, warps and programs is the limit.
    """
    per_thread = architecture.register_unit * math.ceil(max(registers, 1) / architecture.register_unit)
    by_registers = PARTS * (architecture.registers // per_thread) // warps
    by_warps = architecture.max_warps // warps
    programs = min(by_registers, by_warps, architecture.max_blocks)
    if shared or architecture.shared_reserved:
        unit = architecture.shared_unit
        taken = unit * math.ceil(shared / unit) + architecture.shared_reserved
        programs = min(programs, architecture.shared // taken)
    return programs * warps / architecture.max_warps


@dataclass(frozen=True)
class Device:
    """One product: bandwidth in bytes per second, clock in hertz, rates per multiprocessor and clock.

    Args:
        issue: warp instructions; on AMD only those of the vector unit, as scalar and memory instructions are issued in
            parallel.
        special: lanes of exp, 1/x and similar functions.
        matrix: dense 16-bit peak of the matrix units in operations per second, a multiply-add being two. float32 (as
            TF32) takes twice as long.
    """

    name: str
    architecture: Architecture
    bandwidth: float
    multiprocessors: int
    clock: float
    issue: float
    special: float
    matrix: float
    source: str

    def byte_seconds(self, size: float) -> float:
        """Time to move ``size`` bytes."""
        return size / self.bandwidth

    def issue_seconds(self, instructions: float) -> float:
        """Time to issue ``instructions``, summed over threads."""
        return instructions / (self.architecture.threads * self.issue * self.multiprocessors * self.clock)

    def special_seconds(self, operations: float) -> float:
        """Time of ``operations`` on the special-function units."""
        return operations / (self.special * self.multiprocessors * self.clock)

    def matrix_seconds(self, multiply_adds: float, value_bytes: int) -> float:
        """Time of the matrix units, for values of 2 or 4 bytes."""
        return 2 * multiply_adds * (value_bytes / 2) / self.matrix

    def seconds(
        self, size: float, instructions: float, special: float, multiply_adds: float = 0.0, value_bytes: int = 2
    ) -> float:
        """The largest of the four times: perfect overlap, no latency."""
        return max(
            self.byte_seconds(size),
            self.issue_seconds(instructions),
            self.special_seconds(special),
            self.matrix_seconds(multiply_adds, value_bytes),
        )


A100 = Device(
    "A100", SM80, 2.039e12, 108, 1.41e9, 4, 16, 312e12,
    "NVIDIA A100 80GB SXM datasheet (2,039 GB/s); A100 whitepaper (108 SMs, boost 1,410 MHz)",
)  # fmt: skip
H100 = Device(
    "H100", SM90, 3.35e12, 132, 1.98e9, 4, 16, 989e12,
    "NVIDIA H100 SXM datasheet (3.35 TB/s; 67 TFLOPS float32 = 132 x 256 x 1.98 GHz); H100 whitepaper (132 SMs)",
)  # fmt: skip
H200 = Device(
    "H200", SM90, 4.8e12, 132, 1.98e9, 4, 16, 989e12,
    "NVIDIA H200 SXM datasheet (4.8 TB/s; 67 TFLOPS float32, as H100)",
)  # fmt: skip
B200 = Device(
    "B200", SM100, 8.0e12, 148, 1.98e9, 4, 16, 2250e12,
    "NVIDIA DGX B200 datasheet (64 TB/s by 8 GPUs); 148 SMs, clock from 75 TFLOPS float32 = 148 x 256 x 1.98 GHz",
)  # fmt: skip
MI300X = Device(
    "MI300X", GFX942, 5.3e12, 304, 2.1e9, 1, 16, 1307e12,
    "AMD Instinct MI300X data sheet (5.3 TB/s, 304 CUs, 2,100 MHz); CDNA 3 ISA: 4 SIMDs of 16 lanes, 64-wide waves",
)  # fmt: skip

DEVICES = (A100, H100, H200, B200, MI300X)


def devices_of(target: str) -> tuple[Device, ...]:
    """Products that run code compiled for ``target``."""
    return tuple(device for device in DEVICES if device.architecture.target == target)


OTHER_MEMORY = r"PCIe|NVL|40GB|MIG"
"""In names of products with the chip of one of `DEVICES` but other memory or another clock."""


def device_named(name: str, multiprocessors: int) -> Device | None:
    """The one of `DEVICES` with a driver's ``name``, such as ``NVIDIA H100 80GB HBM3``; None for other products."""
    if re.search(OTHER_MEMORY, name):
        return None
    found = (d for d in DEVICES if re.search(rf"\b{d.name}\b", name) and d.multiprocessors == multiprocessors)
    return next(found, None)
