"""Event sets: recordings of an event camera as binary spike trains, cached as packed bits.

A recording is a list of events (x, y, polarity, time). Step t of its spike train has a spike for each input with at
least one event in ``t * bin_ms <= time < (t + 1) * bin_ms`` (`tssl_triton.encoding.bin_events`). The axes of a step are
polarity (0: darker, "off"; 1: brighter, "on"), row y, column x.

Each step is stored as ``ceil(2 H W / 8)`` bytes of bits in a memory-mapped file. A batch is transposed to time-major
as bytes and unpacked in one operation, on a GPU after the transfer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tssl_triton._extras import MissingExtraError, require
from tssl_triton.encoding import bin_events

from . import cache
from .base import Batch, DataError, Options, in_one_line

Integers = NDArray[np.int64]


class Events(NamedTuple):
    """Events of one recording: column, row, polarity (0 or 1) and time in microseconds, each ``(E,)``."""

    x: Integers
    y: Integers
    polarity: Integers
    time: Integers


@dataclass(frozen=True)
class Source:
    """The source files of the training or test half of a set.

    Args:
        files: name, size in bytes and a mark (modification time or checksum) of each file, to validate a cache.
        labels: class of each recording.
        recordings: reads the recordings one by one, in the order of ``labels``.
    """

    files: tuple[tuple[str, int, int], ...]
    labels: tuple[int, ...]
    recordings: Callable[[], Iterator[Events]]


@dataclass(frozen=True)
class EventSet:
    """Training and test recordings of one data set as spike trains.

    Args:
        name: of the set.
        train_bits: ``(N, T, ceil(C H W / 8))`` uint8, on the host; the bits of a step, highest bit of a byte first.
        train_labels: ``(N,)`` int64, on the host.
        test_bits: as ``train_bits``.
        test_labels: ``(M,)`` int64.
        classes: number of classes.
        in_shape: polarities, rows and columns of a step, ``(C, H, W)``.
        device: of the batches.
    """

    noun: ClassVar[str] = "recordings"
    costly: ClassVar[bool] = True

    name: str
    train_bits: NDArray[np.uint8]
    train_labels: Tensor
    test_bits: NDArray[np.uint8]
    test_labels: Tensor
    classes: int
    in_shape: tuple[int, int, int]
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))

    @property
    def steps(self) -> int:
        """Time steps T of a recording."""
        return int(self.train_bits.shape[1])

    def to(self, device: torch.device | str) -> EventSet:
        """The same set, its batches on ``device``; bits and labels stay on the host."""
        return dataclasses.replace(self, device=torch.device(device))

    def training(self, seed: int, epoch: int) -> Callable[[Tensor], Batch]:
        """`train_batch`, in every epoch: there is no augmentation."""
        return self.train_batch

    def train_batch(self, indices: Tensor) -> Batch:
        """Spike trains ``(T, B, C, H, W)``, float32, and labels ``(B,)``, at ``indices`` ``(B,)`` on the host."""
        return self._batch(self.train_bits[indices.numpy()], self.train_labels[indices])

    def test_batch(self, start: int, stop: int) -> Batch:
        """Test recordings and labels from ``start`` to ``stop - 1``, in the format of `train_batch`."""
        return self._batch(self.test_bits[start:stop], self.test_labels[start:stop])

    def present(self, values: Tensor, steps: int) -> Tensor:
        """The spike trains, unchanged.

        Raises:
            ValueError: if they were not binned into ``steps`` steps.
        """
        if len(values) != steps:
            raise ValueError(f"steps must be {len(values)}, into which {self.name} was binned, got {steps}")
        return values

    def _batch(self, bits: NDArray[np.uint8], labels: Tensor) -> Batch:
        shape = (self.steps, len(labels), *self.in_shape)
        packed = np.array(bits.transpose(1, 0, 2), order="C")  # (T, B, bytes), in memory
        features = math.prod(self.in_shape)
        if self.device.type == "cpu":
            # NumPy allocates huge pages, which makes this conversion faster than PyTorch's.
            spikes = np.unpackbits(packed, axis=-1, count=features).astype(np.float32)
            return torch.from_numpy(spikes).view(shape), labels
        # The transfer is asynchronous, and 1/32 of the size of the spikes.
        bits_there = self._transferred(torch.from_numpy(packed))
        return unpack(bits_there, features).view(shape), self._transferred(labels)

    def _transferred(self, tensor: Tensor) -> Tensor:
        pinned = tensor.pin_memory() if self.device.type == "cuda" else tensor
        return pinned.to(self.device, non_blocking=True)


def unpack(packed: Tensor, features: int) -> Tensor:
    """Unpack bytes ``(*, ceil(features / 8))``, uint8, to float32 0 and 1 ``(*, features)`` on the same device."""
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    bits = ((packed[..., None] >> places) & 1).flatten(-2)
    return bits[..., :features].to(torch.float32, memory_format=torch.contiguous_format)


def event_set(
    name: str,
    kind: str,
    root: Path,
    download: bool,
    find: Callable[[Path, str], Source | None],
    missing: Callable[[Path, str], str],
    sensor: tuple[int, int],
    classes: int,
    options: Options,
) -> EventSet:
    """Both halves of a set, from the caches in ``root/kind/cache`` if these are valid.

    Args:
        name: of the set.
        kind: its class in ``tonic.datasets``, and its folder.
        root: the folder of all sets.
        download: whether tonic may download a missing half.
        find: the source files in a folder of the half ``"train"`` or ``"test"``; None if there are none.
        missing: an error message for a missing half.
        sensor: rows and columns of the camera.
        classes: number of classes.
        options: ``steps``, ``bin_ms`` and ``downsample``.

    Raises:
        ValueError: if ``downsample`` does not divide the sensor's sides.
        DataError: if recordings are missing or cannot be read, or the download fails.
    """
    folder = (root / kind).absolute()
    factor = options.downsample
    if any(side % factor for side in sensor):
        raise ValueError(
            f"downsample must divide the sides of {name}'s sensor, {sensor[0]}x{sensor[1]} pixels; got {factor}"
        )
    shape = (2, sensor[0] // factor, sensor[1] // factor)
    size = (options.steps, -(-math.prod(shape) // 8))
    stem = f"{options.bin_ms!r}ms-{options.steps}steps-{shape[1]}x{shape[2]}.npy"
    found: dict[str, tuple[Path, Source | None, cache.Cached | None]] = {}
    for half in ("train", "test"):
        path, source = folder / "cache" / f"{half}-{stem}", find(folder, half)
        kept = cache.read(path, None if source is None else source.files)
        if source is None and kept is None:
            if not download:
                raise DataError(f"{missing(folder, half)}, or allow the download")
            _download(kind, root, half, missing(folder, half))
            source = find(folder, half)
        found[half] = path, source, kept
    halves: dict[str, Any] = {}
    # Binning takes long, so it starts once both halves are known to be there.
    for half, (path, source, kept) in found.items():
        if kept is None:
            if source is None:
                raise DataError(f"{name}: the download left no recordings in {folder}")
            recordings = (pack(events, shape, options) for events in source.recordings())
            kept = cache.write(path, recordings, size, source.files, source.labels, f"{name}, {half}")
        halves[f"{half}_bits"] = kept.bits
        halves[f"{half}_labels"] = torch.tensor(kept.labels, dtype=torch.int64)
    return EventSet(name=name, classes=classes, in_shape=shape, **halves)


def marks(folder: Path, paths: list[Path]) -> tuple[tuple[str, int, int], ...]:
    """Name relative to ``folder``, size and modification time of each file, for `Source`."""
    stats = ((path, path.stat()) for path in paths)
    return tuple((path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns) for path, stat in stats)


def pack(events: Events, shape: tuple[int, int, int], options: Options) -> NDArray[np.uint8]:
    """Bin one recording into steps of ``shape`` ``(2, H, W)`` and pack them: ``(T, ceil(2 H W / 8))`` uint8."""
    _, height, width = shape
    factor = options.downsample
    units = (events.polarity * height + events.y // factor) * width + events.x // factor
    times = torch.from_numpy(events.time)
    spikes = bin_events(times, torch.from_numpy(units), shape, 1000 * options.bin_ms, options.steps, torch.uint8)
    return np.packbits(spikes.flatten(1).numpy(), axis=-1)


def checked(name: str, events: Events, sensor: tuple[int, int]) -> Events:
    """The events, after a check that all are within ``sensor`` rows and columns.

    Raises:
        DataError: if one is not; the message has the file ``name`` and the first invalid event.
    """
    rows, columns = sensor
    x, y, polarity, time = events
    wrong = (x < 0) | (x >= columns) | (y < 0) | (y >= rows) | (polarity < 0) | (polarity > 1) | (time < 0)
    if wrong.any():
        at = int(wrong.argmax())
        raise DataError(
            f"{name} is damaged: event {at} of {len(x)} has x {x[at]}, y {y[at]}, polarity {polarity[at]}, "
            f"time {time[at]} us; the sensor has {columns}x{rows} pixels, polarities are 0 and 1, times are >= 0"
        )
    return events


def _download(kind: str, root: Path, half: str, missing: str) -> None:
    """Download one half of a set with tonic."""
    try:
        constructor = getattr(require("tonic.datasets", "events", "the download"), kind)
    except MissingExtraError as error:
        raise DataError(f"{missing}; {error}") from error
    try:
        constructor(save_to=str(root), train=half == "train")
    except (OSError, RuntimeError) as error:
        raise DataError(f"{missing}; the download failed: {in_one_line(error)}") from error
