"""N-MNIST (Orchard, Jayawant, Cohen & Thakor, 2015): MNIST digits recorded by a moving event camera of 34x34 pixels.

A recording is a file of 40-bit events, five bytes each:

=======  ==========================================================================
byte 0   x, the column
byte 1   y, the row
byte 2   bit 7: polarity (0 off, 1 on); bits 0 to 6: bits 22 to 16 of the time
byte 3   bits 15 to 8 of the time
byte 4   bits 7 to 0 of the time, in microseconds
=======  ==========================================================================

In this format, y = 240 marks an overflow of the camera's clock: it is not an event, and adds 2^13 microseconds to the
time of all later events. N-MNIST's files of 0.3 s need no such marks. Any other event outside 34x34 pixels is an error.

The camera's motion is not compensated; the optional stabilisation of the authors' released program is not implemented.
"""

from __future__ import annotations

import contextlib
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .base import DataError, Options, in_one_line
from .events import Events, EventSet, Source, checked, event_set, marks

SENSOR = (34, 34)
OVERFLOW_ROW = 240
OVERFLOW_TIME = 1 << 13
WHERE = "https://www.garrickorchard.com/datasets/n-mnist"


def load_n_mnist(root: Path, download: bool, options: Options) -> EventSet:
    """N-MNIST from ``root/NMNIST``: folders ``Train/0`` to ``Train/9`` and ``Test/0`` to ``Test/9`` with files
    ``*.bin``, or ``Train.zip`` and ``Test.zip`` as published."""
    return event_set("n-mnist", "NMNIST", root, download, _find, _missing, SENSOR, 10, options)


def _missing(folder: Path, half: str) -> str:
    title = half.title()
    return (
        f"n-mnist not found: looked for {title}/0 to {title}/9 with *.bin files, or {title}.zip, in {folder}; "
        f"put one of them there, from {WHERE}"
    )


def read_events(name: str, raw: bytes) -> Events:
    """Decode the events of a file.

    Args:
        name: of the file, for errors.
        raw: its bytes.

    Raises:
        DataError: if the size is not a multiple of five bytes, or an event is outside the sensor.
    """
    if not raw:
        raise DataError(f"{name} is empty: events of 5 bytes each were expected")
    if len(raw) % 5:
        raise DataError(f"{name} is truncated: its size is {len(raw)} bytes, not a multiple of the 5 bytes of an event")
    # (5, E): one row for each byte of an event.
    column, row, high, middle, low = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 5).T.astype(np.int64)
    overflow = row == OVERFLOW_ROW
    time = ((high & 0x7F) << 16 | middle << 8 | low) + OVERFLOW_TIME * np.cumsum(overflow)
    events = Events(column, row, high >> 7, time)
    if overflow.any():
        events = Events(*(values[~overflow] for values in events))
    return checked(name, events, SENSOR)


def _find(folder: Path, half: str) -> Source | None:
    title = half.title()
    if (folder / title).is_dir():
        return _in_folders(folder / title)
    # tonic writes train.zip, the publisher Train.zip.
    archives = [folder / f"{stem}.zip" for stem in (title, half) if (folder / f"{stem}.zip").is_file()]
    return _in_archive(archives[0], title) if archives else None


def _in_folders(folder: Path) -> Source:
    paths: list[Path] = []
    labels: list[int] = []
    for label in range(10):
        here = sorted((folder / str(label)).glob("*.bin"))
        if not here:
            raise DataError(
                f"n-mnist is incomplete: no *.bin files in {folder / str(label)}; each digit needs a folder of them, "
                f"{folder / '0'} to {folder / '9'}; download the whole set from {WHERE}"
            )
        paths += here
        labels += [label] * len(here)

    def recordings() -> Iterator[Events]:
        return (read_events(str(path), path.read_bytes()) for path in paths)

    return Source(marks(folder, paths), tuple(labels), recordings)


def _in_archive(path: Path, title: str) -> Source:
    pattern = re.compile(rf"(?:[^/]+/)*{title}/([0-9])/[^/]+\.bin")

    with _opened(path) as archive:
        matches = ((pattern.fullmatch(info.filename), info) for info in archive.infolist())
        members = [(int(match[1]), info) for match, info in matches if match]
    members.sort(key=lambda member: (member[0], member[1].filename))
    absent = sorted(set(range(10)) - {label for label, _ in members})
    if absent:
        raise DataError(
            f"n-mnist is incomplete: {path} has no {title}/{absent[0]}/*.bin; download it again from {WHERE}"
        )

    def recordings() -> Iterator[Events]:
        with _opened(path) as archive:
            for _, info in members:
                yield read_events(f"{path}:{info.filename}", archive.read(info))

    files = tuple((info.filename, info.file_size, info.CRC) for _, info in members)
    return Source(files, tuple(label for label, _ in members), recordings)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged or not a zip file: {in_one_line(error)}") from error
