"""The files of an inspection: a self-contained HTML page, its figures, and the numbers as JSON."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tssl_triton._files import write_atomically

from . import figures
from .inspect import Inspection, LayerNumbers

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1300px; padding: 0 1em; color: #222; }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin-top: 2em; }
table { border-collapse: collapse; } th, td { padding: 0.2em 0.9em; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; } figcaption { max-width: 60em; color: #444; } figure { margin: 1em 0 2em; }
"""


def write(folder: Path, inspection: Inspection) -> list[Path]:
    """Write ``inspect.html``, its figures and ``inspect.json`` into ``folder``, which is created if necessary.

    Everything is drawn before the first file is written. Each file is replaced completely or not at all.

    Returns:
        The files, the page first.

    Raises:
        MissingExtraError: if matplotlib is not installed; nothing is written then.
    """
    pictures = figures.pictures(inspection)
    files = {
        "inspect.html": page(inspection, pictures).encode(),
        "inspect.json": (json.dumps(inspection.as_dict(), indent=1) + "\n").encode(),
        **pictures,
    }
    folder.mkdir(parents=True, exist_ok=True)
    # The page is written last, so that a new page never shows old figures.
    for name, content in reversed(files.items()):
        write_atomically(folder / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
    return [folder / name for name in files]


def page(inspection: Inspection, pictures: Mapping[str, bytes]) -> str:
    """The HTML page, with the figures of `figures.pictures` embedded."""
    trainer, sample = inspection.trainer, inspection.sample
    config, noun = trainer.config, trainer.images.noun
    start = f"; before learning {config.learn}, one value per {config.per}" if config.learn else ""
    facts = [
        f"{config.steps} time steps; tau_mem {config.tau_mem:g}, tau_syn {config.tau_syn:g} steps; "
        f"threshold {config.threshold:g}, reset {config.reset}{start}; loss {config.loss}",
        *(f"{name} has learnt {_learnt(layer)}" for name, layer in inspection.layers.items() if layer.learnt),
        f"test sample {sample.index}: class {sample.label}, predicted {sample.predicted}, loss {sample.loss:.4g}",
    ]
    sections = [
        _figure(
            "Layers",
            pictures["layers.png"],
            f"Over the first {inspection.samples} test {noun}. A silent neuron never fires, a saturated one fires at "
            "every step of every sample. The gradient is that of one training step on all of these, before clipping.",
        ),
        _figure(
            "Spikes",
            pictures["spikes.png"],
            "Every spike of the sample, and above each raster the share of neurons that fire at each step. "
            "Arrows mark the neurons that are traced below, in the same colours.",
        ),
    ]
    for name, traced in sample.traces.items():
        chosen = ", ".join(map(str, traced.indices))
        caption = (
            f"Neurons {chosen} of {name}. Potentials and currents are in units of the threshold. The membrane rises in "
            "a step and is reset at its end. δ is carried back through time; δ' is the part that reaches the synapse "
            "and the weights, drawn where it differs from δ. Steps with warm-up are shaded."
        )
        sections.append(_figure(f"Neurons of {name}", pictures[figures.traces_file(name)], caption))
    title = html.escape(inspection.title)
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head><body>',
            f"<h1>{title}</h1>",
            *(f"<p>{html.escape(fact)}</p>" for fact in facts),
            _table(inspection.table()),
            *sections,
            "</body></html>\n",
        ]
    )


def _learnt(layer: LayerNumbers) -> str:
    """Learnt constants: mean, and the range where neurons differ."""
    return ", ".join(
        f"{constant} {mean:.3g}" + (f" ({low:.3g} to {high:.3g})" if low < high else "")
        for constant, (low, mean, high) in layer.learnt.items()
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for tag, row in zip(["th", *["td"] * (len(rows) - 1)], rows, strict=True)
    ]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _figure(heading: str, png: bytes, caption: str) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    heading, caption = html.escape(heading), html.escape(caption)
    image = f'<img alt="{heading}" src="{source}">'
    return f"<h2>{heading}</h2>\n<figure>{image}<figcaption>{caption}</figcaption></figure>"
