"""The command ``tssl inspect``: spikes, membranes and errors of a trained network on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tssl_triton.inspection import inspect, page
from tssl_triton.inspection.inspect import NEURONS, SAMPLES
from tssl_triton.studies.results import aligned
from tssl_triton.training.display import choose_tracker
from tssl_triton.training.run import load_trainer

from .settings import PLACEMENT, add_settings, say


def add_command(commands: Any) -> None:
    """Add the parser of this command to those of the command line."""
    parser = commands.add_parser(
        "inspect",
        help="draw spikes, membranes and errors of a trained network",
        description="Present a test sample to a trained network and draw every layer's spikes, and for some neurons "
        "membrane potential, synaptic current, PSC and delta, the error of the membrane, over time. Measure over many "
        "samples firing rates, neurons that never fire or always do, and each layer's gradient norm. Writes "
        "inspect.html, which needs no other file, its pictures, and inspect.json.",
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
        help="how many neurons of each layer to trace, from the most active to a silent one, or which, such as "
        f"full1:17 output:3 conv1:0,5,7 (default: {NEURONS})",
    )
    parser.add_argument(
        "--samples",
        type=int,
        metavar="M",
        default=SAMPLES,
        help="test samples to measure rates and norms over (default: %(default)s, or all if there are fewer)",
    )
    parser.add_argument("--out", metavar="DIR", help="folder of the files (default: inspect, in that of the run)")
    parser.add_argument("--progress", choices=("auto", "bar", "lines"), default="auto", help="how progress is shown")
    add_settings(parser, PLACEMENT)


def _inspect(options: dict[str, Any]) -> int:
    folder, out = Path(options.pop("run")), options.pop("out")
    out = folder / "inspect" if out is None else Path(out)
    words, over = options.pop("neurons"), choose_tracker(options.pop("progress"), say)
    neurons = int(words[0]) if len(words) == 1 and words[0].lstrip("-").isdecimal() else words
    what = {name: options.pop(name) for name in ("sample", "samples")}
    found = inspect(load_trainer(folder, options), neurons=neurons, over=over, **what)
    for line in aligned(found.table()):
        say(line)
    sample = found.sample
    say(f"test sample {sample.index}: class {sample.label}, read as {sample.predicted}, loss {sample.loss:.4g}")
    first, *others = page.write(out, found)
    say(f"wrote {first}, and beside it {', '.join(path.name for path in others)}")
    return 0
