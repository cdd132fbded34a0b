"""Files of a run that survive a crash, and the check that what is read back is whole.

A checkpoint holds nothing but tensors and plain containers, so ``torch.load(path, weights_only=True)`` reads it:

===============  ==========================================================================================
``format``       `FORMAT`, which tells a checkpoint of this package from any other file that torch can read
``version``      version of this layout
``config``       the settings of the run, one entry per field of `tssl_triton.training.config.TrainConfig`
``epoch``        epochs that are complete
``batch``        batches of the next epoch that are complete, 0 between epochs
``totals``       running sums over those batches
``history``      metrics of the complete epochs, one dict each
``model``        state dict of the network
``optimizer``    state dict of the optimizer
``rng``          states of the random number generators: ``cpu``, and ``cuda`` (None without a GPU)
``environment``  what the bits of the result may depend on: versions, device, number of threads
===============  ==========================================================================================
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

FORMAT = "tssl-triton checkpoint"
VERSION = 1
FIELDS: dict[str, type] = {
    "config": dict,
    "epoch": int,
    "batch": int,
    "totals": dict,
    "history": list,
    "model": dict,
    "optimizer": dict,
    "rng": dict,
    "environment": dict,
}


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged, or not one of this package; the message names the file."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object], suffix: str = ".part") -> None:
    """Replace ``path`` by what ``write`` puts into the file it is handed: all of it or, after a crash, nothing.

    The bytes go to a temporary file in the same folder, whose name is that of ``path`` with ``suffix``, reach the
    disk, and only then take the name. An error takes the temporary file away.
    """
    temporary = path.with_name(path.name + suffix)
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None and error.errno is not None:
            # As for a full disk, where the system does not say which file it was about.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` outlive a power cut, on systems where a folder can be opened for that."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save(path: Path, content: dict[str, Any]) -> None:
    """Write ``content``, the fields listed at the top of this module, to ``path`` atomically."""
    write_atomically(path, lambda file: torch.save({"format": FORMAT, "version": VERSION, **content}, file))


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, every tensor on the CPU.

    Raises:
        CheckpointError: if the file is missing, unreadable, truncated or altered, is not a checkpoint of this
            package, or is of a later version of it.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        # torch does not compare checksums when it reads, so a flipped bit would pass unseen.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"checkpoint {path} is damaged: the checksum of {damaged} does not match")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of tssl-triton: it holds more than tensors and plain containers"
        ) from error
    # zipfile and torch raise many types at bytes that are not theirs; each of them means the same here.
    except (zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"checkpoint {path} is damaged or not a checkpoint: {_first_line(error)}") from error
    return _checked(path, content)


def _checked(path: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of tssl-triton")
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"checkpoint {path} has version {content.get('version')}, this tssl-triton reads version {VERSION}"
        )
    for name, expected in FIELDS.items():
        if not isinstance(content.get(name), expected):
            raise CheckpointError(f"checkpoint {path} is incomplete: {name!r} is missing or no {expected.__name__}")
    return content


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
