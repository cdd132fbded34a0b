"""Compiles C++ for this machine: source text in, a loaded library out, cached on disk.

Sources are plain C++ without PyTorch's headers, so that a compilation takes half a second. Libraries are kept in
``$TSSL_CACHE_DIR``, by default ``tssl_triton`` in the user's cache folder, named by a hash of source, flags, compiler
and processor. Each is written to a temporary file and then renamed, so that processes can share the folder and can be
interrupted.

If compiling fails, eager PyTorch runs instead, after one warning.

Loops use OpenMP threads. They link to PyTorch's OpenMP runtime where its symbols are visible in the process: threads of
a second runtime would compete with the first one's for the processors.
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
from importlib import resources
from pathlib import Path
from typing import ParamSpec, TypeVar

Made = TypeVar("Made")
Given = ParamSpec("Given")

COMPILERS = ("c++", "g++", "clang++")
"""Tried in this order if the environment variable CXX is not set."""

# No flag changes results: sums and products are rounded separately, like PyTorch's, so that a neuron's numbers do not
# depend on whether it is in a vector or in the remainder after the last one.
COMPILING = ("-std=c++17", "-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
MACHINES = {"x86_64": ("-march=native", "-mprefer-vector-width=512"), "AMD64": ("-march=native",)}


class CompileError(RuntimeError):
    """There is no C++ compiler, or it failed on a source."""


_eager_reason: str | None = None


def implementation() -> str:
    """``"native"``, or ``"eager"`` where compiling fails or ``TSSL_CPU=eager`` is set."""
    return "eager" if compiled(_probe) is None else "native"


@cache
def _probe() -> ctypes.CDLL:
    """An empty library, to see whether the compiler works."""
    return library('extern "C" void nothing() {}\n')


def compiled(make: Callable[Given, Made], *args: Given.args, **kwargs: Given.kwargs) -> Made | None:
    """``make(...)``, which needs a compiler; None where eager PyTorch is to run instead.

    The first failure to compile issues a warning; from then on the result is None without trying.
    """
    global _eager_reason
    if _eager_reason or os.environ.get("TSSL_CPU") == "eager":
        return None
    try:
        return make(*args, **kwargs)
    except CompileError as error:
        _eager_reason = str(error)
        warnings.warn(
            "tssl_triton: the CPU loop could not be compiled and runs as eager PyTorch from here on, many times "
            f"slower; install a C++ compiler (g++ or clang++) to change that. The reason: {_eager_reason}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


@cache
def read_source(*names: str) -> str:
    """Files of ``csrc``, one after the other."""
    return "\n".join((resources.files("tssl_triton.cpu") / "csrc" / name).read_text() for name in names)


def library(source: str, *flags: str) -> ctypes.CDLL:
    """The library compiled from ``source`` with the common flags and these ``flags``.

    Raises:
        CompileError: with the compiler's first error.
    """
    command = compiler_command()
    flags = (*COMPILING, *_machine_flags(), *flags)
    hashed = "\0".join((source, *flags, *command, _version(command[0]), _processor()))
    path = _folder() / f"{hashlib.sha256(hashed.encode()).hexdigest()[:32]}.so"
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # missing or damaged
        pass
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            built, loaded = _build(command, flags, source, Path(scratch))
            built.replace(path)
    except OSError as error:
        raise CompileError(f"{path.parent}: {error}") from error
    return loaded


def _build(command: Sequence[str], flags: Sequence[str], source: str, scratch: Path) -> tuple[Path, ctypes.CDLL]:
    """Compile, link and load a library in the folder ``scratch``."""
    text, compiled = scratch / "loop.cpp", scratch / "loop.o"
    text.write_text(source)
    try:
        _run(*command, *flags, "-fopenmp", "-c", text, "-o", compiled)
    except CompileError:  # a compiler without OpenMP, such as Apple's clang++: one thread
        _run(*command, *flags, "-fopenmp-simd", "-c", text, "-o", compiled)
    for name, runtime in (("loop.so", ()), ("loop-with-runtime.so", ("-fopenmp",))):
        linked = scratch / name
        _run(*command, "-shared", compiled, "-o", linked, *runtime)
        try:
            return linked, ctypes.CDLL(str(linked))
        except OSError as error:
            reason = error
    raise CompileError(str(reason))


def _run(*command: str | Path) -> None:
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    except OSError as error:
        raise CompileError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise CompileError((lines or [f"{command[0]} ended with status {done.returncode}"])[0].strip())


def compiler_command() -> list[str]:
    """The C++ compiler: its path, and the arguments that CXX gives it.

    Raises:
        CompileError: if none is installed.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    for candidate, *arguments in [named] if named else [[name] for name in COMPILERS]:
        found = shutil.which(candidate)
        if found:
            return [found, *arguments]
    raise CompileError(f"{' '.join(named) or ', '.join(COMPILERS)}: not found")


def _machine_flags() -> tuple[str, ...]:
    return MACHINES.get(platform.machine(), ("-mcpu=native",))


def _version(compiler: str) -> str:
    """Size and time of the compiler's file, which change when it is updated."""
    status = Path(compiler).resolve().stat()
    return f"{status.st_size} {status.st_mtime_ns}"


@cache
def _processor() -> str:
    """The processor's instruction sets: a machine with others may share the cache and must not run our code."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    except OSError:
        return f"{platform.machine()} {platform.processor()}"


def _folder() -> Path:
    """The cache folder; a temporary folder if that is not writable."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("TSSL_CACHE_DIR") or Path(home) / "tssl_triton")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return _temporary_folder()


@cache
def _temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="tssl_triton-"))
