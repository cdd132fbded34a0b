"""The commands ``tssl sparsity`` and ``tssl inspect``, which examine a trained network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tssl_triton.inspection import inspect, page, sparsity
from tssl_triton.inspection.inspect import NEURONS, SAMPLES
from tssl_triton.training import choose_tracker, load_trainer

from .settings import PLACEMENT, add_progress, add_settings, say, say_table


def add_to(commands: Any) -> None:
    """Add the parsers of these commands."""
    parser = commands.add_parser(
        "sparsity",
        help="measure the firing sparsity of a trained network",
        description="Count the spikes of a trained network on its test set: share of neurons that fire 0 to T times, "
        "and histogram of firing rates, for each layer. Writes sparsity.json and sparsity.png.",
    )
    parser.set_defaults(command=_sparsity)
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument("--out", metavar="DIR", help="folder of the files (default: RUN)")
    add_settings(parser, PLACEMENT)

    parser = commands.add_parser(
        "inspect",
        help="draw spikes, membranes and errors of a trained network",
        description="Present a test sample to a trained network and draw every layer's spikes, and for some neurons "
        "membrane potential, synaptic current, PSC and delta, the error of the membrane, over time. Measure firing "
        "rates, silent and saturated neurons, and each layer's gradient norm over many samples. Writes the "
        "self-contained page inspect.html, its figures, and inspect.json.",
    )
    parser.set_defaults(command=_inspect)
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--sample", type=int, metavar="N", default=0, help="index of the test sample to present (default: %(default)s)"
    )
    parser.add_argument(
        "--neurons",
        nargs="+",
        metavar="K|LAYER:INDEX",
        default=[str(NEURONS)],
        help="neurons to trace: how many per layer, from the most active to a silent one, or which, such as "
        f"full1:17 output:3 conv1:0,5,7 (default: {NEURONS})",
    )
    parser.add_argument(
        "--samples",
        type=int,
        metavar="M",
        default=SAMPLES,
        help="test samples over which to measure rates and norms (default: %(default)s, or all if there are fewer)",
    )
    parser.add_argument("--out", metavar="DIR", help="folder of the files (default: RUN/inspect)")
    add_progress(parser)
    add_settings(parser, PLACEMENT)


def _sparsity(options: dict[str, Any]) -> int:
    folder, out = Path(options.pop("run")), options.pop("out")
    out = folder if out is None else Path(out)
    measured = sparsity.measure(load_trainer(folder, options))
    say_table(measured.table())
    say(f"test accuracy {measured.accuracy:.2%} ({measured.samples} samples) after {measured.epochs} epochs")
    out.mkdir(parents=True, exist_ok=True)
    sparsity.write(out, measured, f"{measured.dataset}  {measured.arch}, after {measured.epochs} epochs")
    say(f"wrote {out / 'sparsity.json'} and {out / 'sparsity.png'}")
    return 0


def _inspect(options: dict[str, Any]) -> int:
    folder, out = Path(options.pop("run")), options.pop("out")
    out = folder / "inspect" if out is None else Path(out)
    words, over = options.pop("neurons"), choose_tracker(options.pop("progress"), say)
    neurons = int(words[0]) if len(words) == 1 and words[0].lstrip("-").isdecimal() else words
    what = {name: options.pop(name) for name in ("sample", "samples")}
    found = inspect(load_trainer(folder, options), neurons=neurons, over=over, **what)
    say_table(found.table())
    sample = found.sample
    say(f"test sample {sample.index}: class {sample.label}, predicted {sample.predicted}, loss {sample.loss:.4g}")
    main, *others = page.write(out, found)
    say(f"wrote {main} and {', '.join(path.name for path in others)}")
    return 0
