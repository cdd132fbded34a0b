"""Cross-compilation of a launch for a GPU, which need not be present, and the compiled kernel's resources.

Vectorisation of loads depends on the arguments' types, alignment, and sizes equal to 1 or divisible by 16. They are
derived by the functions that Triton's JIT uses at a launch. Tensors may be on the meta device: their address counts as
aligned, like that of any allocation by PyTorch.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import compute_cache_key, create_function_from_signature
from tssl_triton.kernels.plan import Launch

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}

BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Compiled:
    """A compiled kernel; stack, local and shared memory in bytes."""

    target: str
    asm: dict[str, Any] = field(repr=False)
    shared: int

    @property
    def nvidia(self) -> bool:
        return "cubin" in self.asm

    @property
    def listing(self) -> str:
        """SASS for NVIDIA, assembly text for AMD."""
        return self._sass if self.nvidia else self.asm["amdgcn"]

    @property
    def registers(self) -> int:
        """Vector registers per thread."""
        return self._resources["REG"] if self.nvidia else self._amd("vgpr_count")

    @property
    def spilled(self) -> int:
        """Bytes of stack and local memory per thread; on AMD the private segment and 4 per spilled register."""
        if self.nvidia:
            return self._resources["STACK"] + self._resources["LOCAL"]
        return self.spilled_to_memory + 4 * self._amd("sgpr_spill_count")

    @property
    def spilled_to_memory(self) -> int:
        """The same without AMD's scalar registers, which spill to lanes of vector registers."""
        if self.nvidia:
            return self.spilled
        return self._amd("private_segment_fixed_size") + 4 * self._amd("vgpr_spill_count")

    @property
    def code_bytes(self) -> int:
        """Size of the machine code, with padding."""
        if self.nvidia:
            return 16 * len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", self.listing, re.MULTILINE))
        (size,) = re.findall(r"^; codeLenInByte = (\d+)", self.listing, re.MULTILINE)
        return int(size)

    @cached_property
    def _sass(self) -> str:
        return self._inspect("-sass")

    @cached_property
    def _resources(self) -> dict[str, int]:
        text = self._inspect("--dump-resource-usage")
        return {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", text)}

    def _amd(self, name: str) -> int:
        return sum(map(int, re.findall(rf"\.{name}:\s+(\d+)", self.asm["amdgcn"])))

    def _inspect(self, option: str) -> str:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.asm["cubin"])
            file.flush()
            command = [str(BINARIES / "cuobjdump"), option, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def compile_launch(launch: Launch, target: str) -> Compiled:
    """Compile the kernel of ``launch`` for ``target``."""
    kernel = launch.kernel
    backend, bound, specialization = _specialize(launch, target)
    options = launch.options(_is_nvidia(target))
    _, signature, constants, attributes = kernel._pack_args(backend, options, bound, specialization, None)
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=TARGETS[target], options=options)
    return Compiled(target, dict(compiled.asm), compiled.metadata.shared)


def launch_key(launch: Launch, target: str = "sm_90") -> str:
    """The JIT's cache key: launches with the same key share one compiled kernel."""
    _, _, specialization = _specialize(launch, target)
    return compute_cache_key({}, specialization, launch.options(_is_nvidia(target)))


def _is_nvidia(target: str) -> bool:
    return TARGETS[target].backend == "cuda"


def _specialize(launch: Launch, target: str) -> tuple[Any, dict[str, Any], list[Any]]:
    kernel, backend = launch.kernel, make_backend(TARGETS[target])
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, _ = bind(**launch.arguments)
    return backend, bound, specialization
