"""The command ``tssl export``: a trained network for other programs."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import Any

from tssl_triton._extras import require
from tssl_triton.interchange import InterchangeError, save_weights, to_nir
from tssl_triton.interchange.metadata import DT
from tssl_triton.nn.weighted import SpikingSequential
from tssl_triton.training.checkpoint import write_atomically
from tssl_triton.training.run import load_trainer
from tssl_triton.training.trainer import Trainer

from .settings import PLACEMENT, add_settings, say

FORMATS = {"nir": "network.nir", "safetensors": "weights.safetensors"}
"""What can be written, and the name of the file in the run's folder where none is given."""


def add_command(commands: Any) -> None:
    """Add the parser of this command to those of the command line."""
    exporting = commands.add_parser(
        "export",
        help="write a trained network for other programs",
        description="Write the network of a run as a NIR graph, for simulators and neuromorphic chips, or its weights "
        "to a safetensors file.",
    )
    exporting.set_defaults(command=_export)
    exporting.add_argument("run", metavar="RUN", help="folder of the run")
    exporting.add_argument("--to", required=True, choices=tuple(FORMATS), help="what to write")
    files = " or ".join(FORMATS.values())
    exporting.add_argument("--out", metavar="FILE", help=f"the file (default: {files} in the run's folder)")
    exporting.add_argument(
        "--dt", type=float, metavar="S", default=DT, help="seconds per time step, for NIR (default: %(default)s)"
    )
    add_settings(exporting, PLACEMENT)


def _export(options: dict[str, Any]) -> int:
    folder, out, kind, dt = (options.pop(name) for name in ("run", "out", "to", "dt"))
    path = Path(folder) / FORMATS[kind] if out is None else Path(out)
    if path.is_dir():
        raise InterchangeError(f"--out must be a file, got the folder {path}")
    trainer = load_trainer(Path(folder), options)
    if kind == "nir":
        _write_graph(trainer, path, dt)
    else:
        save_weights(trainer.network, path)
    say(f"wrote {path}: {trainer.config.dataset}, network {trainer.config.arch}, after {trainer.epoch} epochs")
    return 0


def _write_graph(trainer: Trainer, path: Path, dt: float) -> None:
    network = trainer.network
    if not isinstance(network, SpikingSequential):
        raise InterchangeError(f"a network of rule {trainer.config.rule!r} has no spiking neurons to write as NIR")
    if not 0 < dt < math.inf:
        raise InterchangeError(f"--dt must be a time in seconds > 0, got {dt!r}")
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        graph = to_nir(network, trainer.images.in_shape, dt)
    for line in dict.fromkeys(str(note.message) for note in notes):
        say(f"note: {line}")
    content = io.BytesIO()
    require("nir", "interchange", "writing a NIR graph").write(content, graph)
    write_atomically(path, lambda file: file.write(content.getvalue()))
