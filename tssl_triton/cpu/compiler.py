"""C++ compiled for this machine: source text in, a loaded library out, kept on disk from one process to the next.

A source of this package is one loop in plain C++ without a header of PyTorch's, so that a compiler needs half a second
for it. Libraries lie in ``$TSSL_CACHE_DIR``, or else ``tssl_triton`` in the user's cache folder, under a name that
says all they were made of: source, flags, compiler and processor. Each is written whole and then given its name, so
that processes may share the folder and be interrupted.

Where that cannot be, what was to be compiled runs as eager PyTorch, which is said once.

Loops run on OpenMP threads. Where PyTorch has a runtime of its own in the process, its symbols serve: a second runtime
would have threads of its own, which wait for work on the processors that the first one's need.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch

Made = TypeVar("Made")

TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.uint8: "uint8_t",
    torch.int16: "int16_t",
    torch.int32: "int32_t",
    torch.int64: "int64_t",
    torch.bool: "bool",
}
"""What C++ calls the types of tensors; it has none of 16 bits for reals that all compilers make vectors of."""

COMPILERS = ("c++", "g++", "clang++")
"""Looked for in this order where the environment variable CXX names none."""

# No flag changes what an operation gives: sums and products are rounded each on its own, as PyTorch's are, so that a
# neuron's numbers do not depend on whether it falls into a vector or into what is left over after the last.
COMPILING = ("-std=c++17", "-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
MACHINES = {"x86_64": ("-march=native", "-mprefer-vector-width=512"), "AMD64": ("-march=native",)}


class CompileError(RuntimeError):
    """There is no C++ compiler, or it did not make a library of a source."""


_eager_reason: str | None = None


def implementation() -> str:
    """``"native"``, or ``"eager"`` where compiling fails or ``TSSL_CPU=eager`` asks for it."""
    return "eager" if compiled(_probe) is None else "native"


@cache
def _probe() -> ctypes.CDLL:
    """The least that a compiler must be able to do."""
    return library('extern "C" void nothing() {}\n')


def wanted() -> bool:
    """Whether native code is to serve, as far as is known yet."""
    return not _eager_reason and os.environ.get("TSSL_CPU") != "eager"


def compiled(make: Callable[[], Made], asked: bool = False) -> Made | None:
    """What ``make`` returns, which it needs a compiler for; None where eager PyTorch is to serve instead.

    That there is no compiler is said by a warning, once. Whether native code is `wanted` may have been ``asked``.
    """
    global _eager_reason
    if _eager_reason or not (asked or wanted()):
        return None
    try:
        return make()
    except CompileError as error:
        _eager_reason = str(error)
        warnings.warn(
            "tssl_triton: the CPU loop could not be compiled and runs as eager PyTorch from here on, many times "
            f"slower; install a C++ compiler (g++ or clang++) to change that. The reason: {_eager_reason}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def library(source: str, *flags: str) -> ctypes.CDLL:
    """The library that ``source`` compiles to, with ``flags`` besides those of all.

    Raises:
        CompileError: with the first line that the compiler says.
    """
    called = compiler()
    flags = (*COMPILING, *_machine_flags(), *flags)
    made_of = "\0".join((source, *flags, *called, _age(called[0]), _processor()))
    path = _folder() / f"{hashlib.sha256(made_of.encode()).hexdigest()[:32]}.so"
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # it is not there, or damaged
        pass
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            built, loaded = _built(called, flags, source, Path(scratch))
            built.replace(path)
    except OSError as error:
        raise CompileError(f"{path.parent}: {error}") from error
    return loaded


def _built(compiler: Sequence[str], flags: Sequence[str], source: str, scratch: Path) -> tuple[Path, ctypes.CDLL]:
    """A library that loads, made in the folder ``scratch``, and loaded."""
    text, compiled = scratch / "loop.cpp", scratch / "loop.o"
    text.write_text(source)
    try:
        _call(*compiler, *flags, "-fopenmp", "-c", text, "-o", compiled)
    except CompileError:  # such as Apple's clang++, which has no OpenMP: one thread then
        _call(*compiler, *flags, "-fopenmp-simd", "-c", text, "-o", compiled)
    for name, runtime in (("loop.so", ()), ("loop-with-runtime.so", ("-fopenmp",))):
        linked = scratch / name
        _call(*compiler, "-shared", compiled, "-o", linked, *runtime)
        try:
            return linked, ctypes.CDLL(str(linked))
        except OSError as error:
            reason = error
    raise CompileError(str(reason))


def _call(*command: str | Path) -> None:
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    except OSError as error:
        raise CompileError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise CompileError((said or [f"{command[0]} ended with status {done.returncode}"])[0].strip())


def compiler() -> list[str]:
    """The C++ compiler: its path, and the arguments that CXX gives it.

    Raises:
        CompileError: if it is not there.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    for candidate, *arguments in [named] if named else [[name] for name in COMPILERS]:
        found = shutil.which(candidate)
        if found:
            return [found, *arguments]
    raise CompileError(f"{' '.join(named) or ', '.join(COMPILERS)}: not found")


def _machine_flags() -> tuple[str, ...]:
    return MACHINES.get(platform.machine(), ("-mcpu=native",))


def _age(compiler: str) -> str:
    """What changes when the compiler does."""
    status = Path(compiler).resolve().stat()
    return f"{status.st_size} {status.st_mtime_ns}"


@cache
def _processor() -> str:
    """The instructions that this machine has: another one that shares the cache must not run our code."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    except OSError:
        return f"{platform.machine()} {platform.processor()}"


def _folder() -> Path:
    """Where libraries are kept; a temporary folder where that cannot be written."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("TSSL_CACHE_DIR") or Path(home) / "tssl_triton")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return _temporary()


@cache
def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="tssl_triton-"))
