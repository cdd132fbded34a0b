"""Cross-compiling a kernel for a GPU that need not be there, and reading what came out.

Argument attributes decide how loads are vectorised, so they are derived as a launch would derive them: pointers are
16-byte aligned, and an integer that is a multiple of 16 is marked as such.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SM80 = GPUTarget("cuda", 80, 32)
SM90 = GPUTarget("cuda", 90, 32)
SM100 = GPUTarget("cuda", 100, 32)
GFX942 = GPUTarget("hip", "gfx942", 64)

BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Compiled:
    """What a compiled kernel says of itself."""

    asm: dict[str, Any]
    shared: int

    def ptx(self) -> str:
        return self.asm["ptx"]

    def resources(self) -> dict[str, int]:
        """Registers per thread, stack, local and shared memory of an NVIDIA kernel, in bytes."""
        said = self._inspect("--dump-resource-usage")
        return {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", said)}

    def sass(self) -> str:
        return self._inspect("-sass")

    def amd_spills(self) -> int:
        """Spilled vector and scalar registers of an AMD kernel."""
        return sum(map(int, re.findall(r"\.(?:v|s)gpr_spill_count:\s+(\d+)", self.asm["amdgcn"])))

    def _inspect(self, option: str) -> str:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.asm["cubin"])
            file.flush()
            command = [str(BINARIES / "cuobjdump"), option, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def compile_kernel(kernel: Any, target: GPUTarget, arguments: dict[str, Any], *, num_warps: int = 4) -> Compiled:
    """Compile ``kernel`` for ``target``.

    ``arguments`` names each argument of the kernel: a string such as ``"*fp32"`` for a pointer, an integer for a size,
    and anything else, or the value of an upper-case name, for a constant.
    """
    signature, constants, attributes = {}, {}, {}
    for position, name in enumerate(kernel.arg_names):
        value = arguments[name]
        if isinstance(value, str) and value.startswith("*"):
            signature[name] = value
            attributes[(position,)] = [["tt.divisibility", 16]]
        elif (isinstance(value, int) and not isinstance(value, bool) and not name.isupper()) or name in ("N", "T"):
            signature[name] = "i32" if value < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(position,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "constexpr"
            constants[(position,)] = value
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=target, options={"num_warps": num_warps})
    return Compiled(dict(compiled.asm), compiled.metadata.shared)
