"""Polarity events in AEDAT 3.1, the file format of iniVation's event cameras.

A header of lines that begin with ``#``, from ``#!AER-DAT3.1`` to ``#!END-HEADER``, then little-endian packets:

=============  ======  ===================================================================
eventType      uint16  1 for polarity events; packets of other types are skipped
eventSource    uint16
eventSize      uint32  bytes of an event, 8
tsOffset       uint32
tsOverflow     uint32  number of overflows of the 31-bit time
eventCapacity  uint32
eventNumber    uint32  number of events that follow
eventValid     uint32
=============  ======  ===================================================================

A polarity event is two uint32: first x in bits 17 to 31, y in bits 2 to 16, polarity in bit 1 (1 on, 0 off) and a
validity mark in bit 0; then the time in microseconds. The mark is ignored, as in other readers of DVS-Gesture, whose
description does not mention it.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from .base import DataError
from .events import Events

PACKET = struct.Struct("<HHIIIIII")
POLARITY = 1
EVENT = np.dtype([("data", "<u4"), ("time", "<u4")])


def read_aedat(path: Path) -> Events:
    """All polarity events of a file, in order.

    Raises:
        DataError: if the file is not AEDAT 3.1, has no end of header, or ends within a packet.
    """
    raw = path.read_bytes()
    if not raw.startswith(b"#!AER-DAT3.1"):
        raise DataError(f"{path} is not AEDAT 3.1: it begins with {raw[:16]!r}")
    place = _after_header(path, raw)
    parts: list[np.ndarray] = []
    times: list[np.ndarray] = []
    while place < len(raw):
        if len(raw) - place < PACKET.size:
            raise _truncated(path, raw, place, PACKET.size)
        kind, _, size, _, overflow, _, number, _ = PACKET.unpack_from(raw, place)
        place += PACKET.size
        if len(raw) - place < size * number:
            raise _truncated(path, raw, place, size * number)
        if kind == POLARITY:
            if size != EVENT.itemsize:
                raise DataError(
                    f"{path} is damaged: polarity events of {size} bytes at byte {place}, not {EVENT.itemsize}"
                )
            packet = np.frombuffer(raw, dtype=EVENT, count=number, offset=place)
            parts.append(packet["data"])
            times.append(packet["time"].astype(np.int64) + (overflow << 31))
        place += size * number
    if not parts:
        raise DataError(f"{path} contains no polarity events")
    data = np.concatenate(parts).astype(np.int64)
    return Events(data >> 17, (data >> 2) & 0x7FFF, (data >> 1) & 1, np.concatenate(times))


def _after_header(path: Path, raw: bytes) -> int:
    """Position of the first packet, whatever its first byte: after the last line of the header."""
    place = 0
    while raw[place : place + 1] == b"#":
        end = raw.find(b"\n", place) + 1
        if not end:
            break
        if raw[place:end].rstrip() == b"#!END-HEADER":
            return end
        place = end
    raise DataError(f"{path} is damaged: its header does not end with a line #!END-HEADER")


def _truncated(path: Path, raw: bytes, place: int, needed: int) -> DataError:
    return DataError(
        f"{path} is truncated: expected {needed} bytes from byte {place} on, but the file has {len(raw)} bytes"
    )
