"""The command ``tssl export``: write a trained network for other programs."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import Any

from tssl_triton._extras import require
from tssl_triton._files import write_atomically
from tssl_triton.interchange import InterchangeError, save_weights, to_nir
from tssl_triton.interchange.metadata import DT
from tssl_triton.nn import SpikingSequential
from tssl_triton.training import Trainer, load_trainer

from .settings import PLACEMENT, add_settings, say

#: Formats, and the default name of the file in the run's folder.
FORMATS = {"nir": "network.nir", "safetensors": "weights.safetensors"}


def add_to(commands: Any) -> None:
    """Add the parser of this command."""
    parser = commands.add_parser(
        "export",
        help="write a trained network for other programs",
        description="Write the network of a run as a NIR graph, for simulators and neuromorphic chips, or its weights "
        "to a safetensors file.",
    )
    parser.set_defaults(command=_export)
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument("--to", required=True, choices=tuple(FORMATS), help="format")
    files = " or ".join(f"RUN/{name}" for name in FORMATS.values())
    parser.add_argument("--out", metavar="FILE", help=f"the file (default: {files})")
    parser.add_argument(
        "--dt", type=float, metavar="S", default=DT, help="seconds per time step, for NIR (default: %(default)s)"
    )
    add_settings(parser, PLACEMENT)


def _export(options: dict[str, Any]) -> int:
    folder, out, file_format, dt = (options.pop(name) for name in ("run", "out", "to", "dt"))
    path = Path(folder) / FORMATS[file_format] if out is None else Path(out)
    if path.is_dir():
        raise InterchangeError(f"--out must be a file, got the folder {path}")
    trainer = load_trainer(Path(folder), options)
    if file_format == "nir":
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
