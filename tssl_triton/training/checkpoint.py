"""Checkpoints: one file per run, checked for completeness and damage when it is read.

A checkpoint contains only tensors and plain containers, so ``torch.load(path, weights_only=True)`` reads it:

===============  ==========================================================================================
``format``       `FORMAT`, which distinguishes a checkpoint of this package from other files of ``torch.save``
``version``      version of this layout
``config``       the settings of the run, one entry per field of `tssl_triton.training.TrainConfig`
``epoch``        number of complete epochs
``batch``        number of complete batches of the next epoch, 0 between epochs
``totals``       running sums over those batches
``history``      metrics of the complete epochs, one dict each
``model``        state dict of the network
``optimizer``    state dict of the optimizer
``rng``          states of the random number generators: ``cpu``, and ``cuda`` (None without a GPU)
``environment``  versions, device and number of threads, which may affect the last bits of a result
===============  ==========================================================================================
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from tssl_triton._errors import UserError
from tssl_triton._files import write_atomically

FORMAT = "tssl-triton checkpoint"
VERSION = 1
FIELDS: dict[str, type] = {
    "epoch": int,
    "batch": int,
    "history": list,
    **dict.fromkeys(("config", "totals", "model", "optimizer", "rng", "environment"), dict),
}


class CheckpointError(UserError, RuntimeError):
    """A checkpoint is missing, damaged or from another program; the message names the file."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Write ``content``, the fields listed at the top of this module, to ``path`` atomically."""
    write_atomically(path, lambda file: torch.save({"format": FORMAT, "version": VERSION, **content}, file))


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, with every tensor on the CPU.

    Raises:
        CheckpointError: if the file is missing, unreadable, truncated, altered, not a checkpoint of this package, or
            of a later version.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        # torch.load does not verify checksums, so it would miss a flipped bit.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"checkpoint {path} is damaged: the checksum of {damaged} does not match")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of tssl-triton: it contains more than tensors and plain containers"
        ) from error
    # zipfile and torch raise many types for invalid files.
    except (zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"checkpoint {path} is damaged or not a checkpoint: {reason}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of tssl-triton")
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"checkpoint {path} has version {content.get('version')}, this tssl-triton reads version {VERSION}"
        )
    for name, expected in FIELDS.items():
        if not isinstance(content.get(name), expected):
            raise CheckpointError(f"checkpoint {path} is incomplete: {name!r} is missing or not {expected.__name__}")
    return content
