"""Cache of binned spike trains: packed bits in a memory-mapped ``.npy`` file, and a record to validate it.

``<stem>.npy``   uint8 ``(N, T, bytes)``, readable by ``numpy.load``
``<stem>.json``  format and version, a hash of the names, sizes and marks of the source files, labels, and the CRC-32 of
                 bits and labels

The stem contains the settings that the bits depend on. Both files are written atomically, the record last. Reading
verifies the checksum of all bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from tssl_triton._files import write_atomically

from .base import DataError

FORMAT = "tssl-triton spikes"
VERSION = 1

#: Name, size in bytes and a mark of each source file; the mark changes with the content.
Files = Sequence[tuple[str, int, int]]

Item = TypeVar("Item")


@dataclass(frozen=True)
class Cached:
    """Memory-mapped bits ``(N, T, bytes)``, and the label of each of the N recordings."""

    bits: NDArray[np.uint8]
    labels: list[int]


def read(path: Path, files: Files | None) -> Cached | None:
    """The cache at ``path``, or None if it is missing, damaged (with a warning) or not made from ``files``.

    Args:
        path: the ``.npy`` file.
        files: name, size and mark of each source file; None if these no longer exist, to accept any valid cache.
    """
    record_path = path.with_suffix(".json")
    if not (path.is_file() and record_path.is_file()):
        return None
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        if (record["format"], record["version"]) != (FORMAT, VERSION):
            return None
        if files is not None and record["files"] != _sum_of(files):
            return None
        bits = np.load(path, mmap_mode="r", allow_pickle=False)
        if bits.dtype != np.uint8 or list(bits.shape) != record["shape"] or len(bits) != len(record["labels"]):
            raise ValueError(f"it contains {bits.dtype} {bits.shape}, its record says uint8 {record['shape']}")
        if _crc(bits, record["labels"]) != record["crc32"]:
            raise ValueError("its checksum does not match")
        return Cached(bits, record["labels"])
    # json and NumPy raise many types for invalid files.
    except (AttributeError, EOFError, KeyError, OSError, TypeError, ValueError) as error:
        what = "it is made again" if files is not None else "its sources are gone, so it cannot be made again"
        warnings.warn(f"the cache {path} cannot be used ({error}); {what}", stacklevel=2)
        return None


def write(
    path: Path,
    recordings: Iterable[NDArray[np.uint8]],
    shape: tuple[int, int],
    files: Files,
    labels: Sequence[int],
    description: str,
) -> Cached:
    """Write recordings to ``path`` one by one, with a progress bar on a terminal, and map the result into memory.

    Args:
        path: the ``.npy`` file; its folder is created if necessary.
        recordings: bits of each, uint8 of ``shape``.
        shape: ``(T, bytes)``.
        files: name, size and mark of each source file.
        labels: one per recording.
        description: label of the progress bar.

    Raises:
        DataError: if the files cannot be written. Errors of ``recordings`` are passed on, and no file is left behind.
    """
    whole = (len(labels), *shape)
    crc = zlib.crc32(bytes(labels))

    def put(file: BinaryIO) -> None:
        nonlocal crc
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": whole})
        for bits in with_progress(recordings, len(labels), description):
            data = bits.tobytes()
            crc = zlib.crc32(data, crc)
            file.write(data)

    # Two runs that start together both make the cache, so each writes to its own temporary file.
    suffix = f".{os.getpid()}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, put, suffix)
        record = {"format": FORMAT, "version": VERSION, "files": _sum_of(files), "shape": whole, "crc32": crc}
        text = json.dumps({**record, "labels": list(labels)})
        write_atomically(path.with_suffix(".json"), lambda file: file.write(text.encode()), suffix)
        return Cached(np.load(path, mmap_mode="r", allow_pickle=False), list(labels))
    except OSError as error:
        raise DataError(f"the cache {path} cannot be written: {error.strerror or error}") from error


def with_progress(items: Iterable[Item], count: int, description: str) -> Iterator[Item]:
    """The items, with a progress bar on standard error if it is a terminal and tqdm is installed."""
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:
            pass
        else:
            items = tqdm(items, total=count, desc=description, unit="recording", dynamic_ncols=True)
    yield from items


def _sum_of(files: Files) -> str:
    text = "\n".join(f"{name}\t{size}\t{mark}" for name, size, mark in files)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _crc(bits: NDArray[np.uint8], labels: Sequence[int]) -> int:
    crc = zlib.crc32(bytes(labels))
    flat = bits.reshape(-1)
    for start in range(0, flat.size, 1 << 24):
        crc = zlib.crc32(flat[start : start + (1 << 24)].data, crc)
    return crc
