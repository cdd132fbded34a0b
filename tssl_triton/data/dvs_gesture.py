"""DVS-Gesture (Amir et al., 2017): eleven hand and arm gestures before an event camera of 128x128 pixels.

Two layouts are read; where both are there, the first:

* ``ibmGestureTrain/<user>_<light>/<class>.npy``, and ``ibmGestureTest``, as tonic unpacks them: one recording a file,
  an array ``(E, 4)`` of x, y, polarity and time in milliseconds; classes count from 0. Times are taken from the
  recording's first event on.
* ``DvsGesture/``, the set as published: ``trials_to_train.txt`` and ``trials_to_test.txt`` name the trials' AEDAT 3.1
  files, and beside each ``user01_led.aedat`` stands ``user01_led_labels.csv`` with a line
  ``class,startTime_usec,endTime_usec`` for each gesture; classes count from 1. A gesture is the events with
  start <= time < end, its times are taken from start on.

The labels are 0 to 10 from either.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from .aedat import read_aedat
from .base import DataError, Options, in_one_line
from .events import Events, EventSet, Source, checked, download_with_tonic, event_set

SENSOR = (128, 128)
CLASSES = 11
HEADER = ["class", "startTime_usec", "endTime_usec"]
WHERE = "http://research.ibm.com/dvsgesture/"


def load_dvs_gesture(root: Path, download: bool, options: Options) -> EventSet:
    """DVS-Gesture from ``root/DVSGesture``, in one of the layouts at the top of this module."""
    folder = (root / "DVSGesture").absolute()

    def fetch(half: str) -> None:
        missing = (
            f"dvs-gesture not found: looked for ibmGesture{half.title()}/USER_LIGHT/CLASS.npy, as tonic lays them out, "
            f"or DvsGesture/trials_to_{half}.txt, as published, in {folder}; put one of them there, from {WHERE}"
        )
        if not download:
            raise DataError(f"{missing}, or allow the download")
        download_with_tonic("DVSGesture", root, half, missing)

    return event_set("dvs-gesture", folder, partial(_find, folder), SENSOR, CLASSES, options, fetch)


def _find(folder: Path, half: str) -> Source | None:
    cut = folder / f"ibmGesture{half.title()}"
    if cut.is_dir():
        return _cut_recordings(cut)
    trials = folder / "DvsGesture" / f"trials_to_{half}.txt"
    return _trials(trials) if trials.is_file() else None


def _cut_recordings(folder: Path) -> Source:
    paths = sorted(folder.glob("*/*.npy"))
    if not paths:
        raise DataError(f"dvs-gesture is incomplete: no USER_LIGHT/CLASS.npy in {folder}")
    for path in paths:
        if not (path.stem.isdecimal() and int(path.stem) < CLASSES):
            raise DataError(f"{path} does not say its class: its name must be 0.npy to {CLASSES - 1}.npy")

    def recordings() -> Iterator[Events]:
        return (read_npy(path) for path in paths)

    return Source(_marks(folder, paths), tuple(int(path.stem) for path in paths), recordings)


def read_npy(path: Path) -> Events:
    """The events of one recording in tonic's layout.

    Raises:
        DataError: if the file is damaged, is no ``(E, 4)`` array of numbers or has events outside the sensor.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        raise DataError(f"{path} is damaged: {in_one_line(error)}") from error
    if array.ndim != 2 or array.shape[1] != 4 or array.dtype.kind not in "iuf" or not len(array):
        raise DataError(f"{path} must hold events (E, 4) of x, y, polarity, time; got {array.dtype} {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{path} is damaged: not all of its numbers are finite")
    x, y, polarity = array[:, :3].T.astype(np.int64)
    # float64 holds any time of a recording in milliseconds to far less than a microsecond.
    time = np.rint(1000 * array[:, 3].astype(np.float64)).astype(np.int64)
    return checked(str(path), Events(x, y, polarity, time - time.min()), SENSOR)


def _trials(listing: Path) -> Source:
    folder = listing.parent
    names = listing.read_text(encoding="utf-8").split()
    paths = [folder / name for name in names]
    tables = [path.with_name(f"{path.stem}_labels.csv") for path in paths]
    missing = [path.name for path in (*paths, *tables) if not path.is_file()]
    if missing or not paths:
        what = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        raise DataError(f"dvs-gesture is incomplete: {listing} names {what or 'no trials'}, not in {folder}")
    windows = [_windows(table) for table in tables]
    labels = tuple(label for trial in windows for label, _, _ in trial)

    def recordings() -> Iterator[Events]:
        for path, trial in zip(paths, windows, strict=True):
            events = checked(str(path), read_aedat(path), SENSOR)
            for _, start, end in trial:
                inside = (events.time >= start) & (events.time < end)
                x, y, polarity, time = (values[inside] for values in events)
                yield Events(x, y, polarity, time - start)

    return Source(_marks(folder, [*paths, *tables]), labels, recordings)


def _windows(path: Path) -> list[tuple[int, int, int]]:
    """Label from 0, start and end in microseconds of each gesture of a trial."""
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row] or [[]]
    windows = []
    for number, row in enumerate(rows, 2):
        if not (len(row) == 3 and all(cell.isdecimal() for cell in row)):
            raise DataError(f"{path} is damaged: line {number} is {','.join(row)!r}, not three whole numbers")
        label, start, end = map(int, row)
        if not (1 <= label <= CLASSES and start < end):
            raise DataError(
                f"{path} is damaged: line {number} has class {label} from {start} to {end}; "
                f"classes are 1 to {CLASSES}, and start comes before end"
            )
        windows.append((label - 1, start, end))
    if header != HEADER or not windows:
        raise DataError(f"{path} is damaged: it must begin with {','.join(HEADER)} and list gestures, got {header}")
    return windows


def _marks(folder: Path, paths: list[Path]) -> tuple[tuple[str, int, int], ...]:
    stats = ((path, path.stat()) for path in paths)
    return tuple((path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns) for path, stat in stats)
