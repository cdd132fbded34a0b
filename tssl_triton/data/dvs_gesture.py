"""DVS-Gesture (Amir et al., 2017): eleven hand and arm gestures, recorded by an event camera of 128x128 pixels.

There are two layouts; if both exist, the first is used:

* tonic's: ``ibmGestureTrain/<user>_<light>/<class>.npy``, and ``ibmGestureTest``. Each file is one recording, an array
  ``(E, 4)`` of x, y, polarity and time in milliseconds. Classes count from 0, times from the first event.
* The published one, in ``DvsGesture/``: ``trials_to_train.txt`` and ``trials_to_test.txt`` list AEDAT 3.1 files. For
  each ``user01_led.aedat``, ``user01_led_labels.csv`` has a line ``class,startTime_usec,endTime_usec`` per gesture.
  A gesture consists of the events with start <= time < end. Classes count from 1, times from start.

Labels are 0 to 10 for both.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .aedat import read_aedat
from .base import DataError, Options, in_one_line
from .events import Events, EventSet, Source, checked, event_set, marks

SENSOR = (128, 128)
CLASSES = 11
HEADER = ["class", "startTime_usec", "endTime_usec"]
WHERE = "http://research.ibm.com/dvsgesture/"


def load_dvs_gesture(root: Path, download: bool, options: Options) -> EventSet:
    """DVS-Gesture from ``root/DVSGesture``, in one of the layouts in the docstring of this module."""
    return event_set("dvs-gesture", "DVSGesture", root, download, _find, _missing, SENSOR, CLASSES, options)


def _missing(folder: Path, half: str) -> str:
    return (
        f"dvs-gesture not found: looked for ibmGesture{half.title()}/USER_LIGHT/CLASS.npy, as tonic lays them out, "
        f"or DvsGesture/trials_to_{half}.txt, as published, in {folder}; put one of them there, from {WHERE}"
    )


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
            raise DataError(f"{path} does not name its class: files must be named 0.npy to {CLASSES - 1}.npy")

    def recordings() -> Iterator[Events]:
        return (read_npy(path) for path in paths)

    return Source(marks(folder, paths), tuple(int(path.stem) for path in paths), recordings)


def read_npy(path: Path) -> Events:
    """The events of one recording in tonic's layout.

    Raises:
        DataError: if the file is damaged, is not an ``(E, 4)`` array of numbers, or has events outside the sensor.
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
    # float64 represents times of a recording in milliseconds far more accurately than a microsecond.
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

    return Source(marks(folder, [*paths, *tables]), labels, recordings)


def _windows(path: Path) -> list[tuple[int, int, int]]:
    """Label (from 0), start and end (in microseconds) of each gesture of a trial."""
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
