"""Small event sets in the published layouts."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np


def atis_bytes(events: Iterable[tuple[int, int, int, int]]) -> bytes:
    """Events (x, y, polarity, microseconds) of 40 bits each: x, y, and polarity over 23 bits of time, big-endian."""
    return b"".join(bytes([x, y]) + (polarity << 23 | time).to_bytes(3, "big") for x, y, polarity, time in events)


def drawn_events(
    rng: np.random.Generator, label: int, side: int, count: int, duration: int
) -> list[tuple[int, int, int, int]]:
    """Events of a recording that can be classified: they cluster at a position that depends on the label."""
    row, column = divmod(label, 4)
    centre = (np.array([column, row]) + 0.5) * side / 4
    places = np.clip(np.rint(rng.normal(centre, side / 16, (count, 2))), 0, side - 1).astype(int)
    times = np.sort(rng.integers(0, duration, count))
    polarities = rng.integers(0, 2, count)
    return list(zip(*(values.tolist() for values in (*places.T, polarities, times)), strict=True))


def write_n_mnist(root: Path, train: int = 20, test: int = 10, seed: int = 0, events: int = 100) -> Path:
    """``root/NMNIST/Train/<label>/<number>.bin`` and ``Test``; returns ``root/NMNIST``."""
    rng = np.random.default_rng(seed)
    for half, count in (("Train", train), ("Test", test)):
        for number in range(count):
            path = root / "NMNIST" / half / str(number % 10) / f"{number:05d}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(atis_bytes(drawn_events(rng, number % 10, 34, events, 90_000)))
    return root / "NMNIST"


def write_cut_gestures(root: Path, train: int = 2, test: int = 1, seed: int = 0, events: int = 300) -> Path:
    """``root/DVSGesture/ibmGestureTrain/user01_led/<label>.npy`` and so on, of all 11 classes."""
    rng = np.random.default_rng(seed)
    for half, users in (("Train", train), ("Test", test)):
        for user in range(1, users + 1):
            folder = root / "DVSGesture" / f"ibmGesture{half}" / f"user{user:02d}_led"
            folder.mkdir(parents=True)
            for label in range(11):
                np.save(folder / f"{label}.npy", np.array(drawn_events(rng, label, 128, events, 1500)))
    return root / "DVSGesture"


def aedat_bytes(packets: Iterable[Sequence[tuple[int, int, int, int]]], kind: int = 1, overflow: int = 0) -> bytes:
    """An AEDAT 3.1 file with one packet for each sequence of events (x, y, polarity, microseconds)."""
    header = (
        b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#Start-Time: 2016-01-01 00:00:00\r\n#!END-HEADER\r\n"
    )
    return header + b"".join(aedat_packet(events, kind, overflow) for events in packets)


def aedat_packet(events: Sequence[tuple[int, int, int, int]], kind: int = 1, overflow: int = 0) -> bytes:
    """One packet: its header of 28 bytes and eight bytes for each event."""
    count = len(events)
    body = b"".join(struct.pack("<II", x << 17 | y << 2 | p << 1 | 1, t) for x, y, p, t in events)
    return struct.pack("<HHIIIIII", kind, 1, 8, 4, overflow, count, count, count) + body


def write_trial(
    folder: Path, name: str, packets: Iterable[Sequence[tuple[int, int, int, int]]], windows: Iterable[Sequence[int]]
) -> Path:
    """A trial of DVS-Gesture as published: ``<name>.aedat`` and ``<name>_labels.csv`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["class,startTime_usec,endTime_usec", *(",".join(map(str, window)) for window in windows)]
    (folder / f"{name}_labels.csv").write_text("\n".join(lines) + "\n")
    path = folder / f"{name}.aedat"
    path.write_bytes(aedat_bytes(packets))
    return path
