"""Commands that set trainings side by side: ``tssl compare``, ``tssl ablate`` and ``tssl convert``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tssl_triton.studies import ablate, compare
from tssl_triton.studies import convert as conversion_report
from tssl_triton.studies.study import Report, Study, run_study
from tssl_triton.training.config import FIELD_TYPES, read_toml, resolve
from tssl_triton.training.display import choose_display
from tssl_triton.training.run import load_trainer

from .settings import PLACEMENT, add_settings, finish, say


def add_commands(commands: Any) -> None:
    """Add the parsers of these commands to those of the command line."""
    comparing = commands.add_parser(
        "compare",
        help="train several learning rules under equal settings",
        description="Train a network by several learning rules with the same settings, data order and initial weights, "
        "and draw accuracy over epochs, time steps and seconds. Finished trials are read, interrupted ones go on: "
        "the same command continues.",
    )
    comparing.set_defaults(command=_compare)
    comparing.add_argument(
        "--rules",
        nargs="+",
        choices=compare.METHODS,
        default=list(compare.METHODS),
        help="what to compare (default: all)",
    )
    comparing.add_argument(
        "--over-steps", nargs="+", type=int, metavar="T", default=[], help="train spiking rules with these steps too"
    )
    _add_study(comparing, "compare", [name for name in FIELD_TYPES if name != "rule"])

    ablating = commands.add_parser(
        "ablate",
        help="train with parts of TSSL-BP left out",
        description="Train a network by TSSL-BP and by variants that lack a part of it or change one, under equal "
        "settings, and say what each part contributes. Finished trials are read, interrupted ones go on: the same "
        "command continues.",
        epilog="rows:\n" + "\n".join(f"  {variant.name:<16} {variant.text}" for variant in ablate.ABLATIONS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    ablating.set_defaults(command=_ablate)
    rows = tuple(ablate.ABLATIONS)
    ablating.add_argument(
        "--rows",
        nargs="+",
        metavar="ROW",
        choices=rows,
        default=list(rows),
        help="which rows beside full (default: all)",
    )
    _add_study(ablating, "ablate", [name for name in FIELD_TYPES if name not in ablate.VARIED])

    converting = commands.add_parser(
        "convert",
        help="turn a trained ANN into a spiking network and test it",
        description="Convert the network of a run with --rule ann into integrate-and-fire neurons, thresholds balanced "
        "by its activations on training images, and test it after several numbers of time steps. Writes "
        "conversion.json and conversion.png.",
    )
    converting.set_defaults(command=_convert)
    converting.add_argument("run", metavar="RUN", help="folder of the run")
    converting.add_argument(
        "--steps",
        nargs="+",
        type=int,
        metavar="T",
        default=list(conversion_report.MARKS),
        help=f"numbers of time steps (default: {' '.join(map(str, conversion_report.MARKS))})",
    )
    converting.add_argument(
        "--percentile",
        type=float,
        metavar="P",
        default=99.9,
        help="of a layer's activations, stands for a rate of 1 (default: %(default)s)",
    )
    converting.add_argument(
        "--samples", type=int, metavar="N", default=1000, help="training samples to take it over (default: %(default)s)"
    )
    converting.add_argument(
        "--initial",
        type=float,
        metavar="V",
        default=0.0,
        help="membrane potential at the first step, as a share of the threshold (default: %(default)s)",
    )
    converting.add_argument("--out", metavar="DIR", help="folder of the files (default: that of the run)")
    add_settings(converting, PLACEMENT)


def _add_study(parser: argparse.ArgumentParser, name: str, settings: Sequence[str]) -> None:
    """What studies have in common."""
    parser.add_argument("--trials", type=int, metavar="K", default=1, help="trials of each (default: %(default)s)")
    parser.add_argument("--out", metavar="DIR", help=f"folder of results (default: runs/{name}-DATASET)")
    parser.add_argument("--config", metavar="FILE", help="TOML file of settings, named as the flags are")
    parser.add_argument("--report-only", action="store_true", help="train nothing, report what is there")
    parser.add_argument("--progress", choices=("auto", "bar", "lines"), default="auto", help="how progress is shown")
    add_settings(parser, settings)


def _compare(options: dict[str, Any]) -> int:
    rules, over_steps, common = options.pop("rules"), options.pop("over_steps"), _common(options)
    base = resolve(options, common["file"])
    out = common["out"] or Path("runs") / f"compare-{base.dataset}"
    study = compare.plan(rules, base, out, common["trials"], over_steps)
    placement = {name: getattr(base, name) for name in PLACEMENT}
    return _study(study, compare.ComparisonReport(study, placement, say), common)


def _ablate(options: dict[str, Any]) -> int:
    rows, common = options.pop("rows"), _common(options)
    base = resolve(options, common["file"])
    out = common["out"] or Path("runs") / f"ablate-{base.dataset}"
    study = ablate.plan(base, out, common["trials"], rows)
    return _study(study, ablate.AblationReport(study), common)


def _common(options: dict[str, Any]) -> dict[str, Any]:
    """The options that `_add_study` added, taken out of ``options``; what stays there are settings."""
    out, file = options.pop("out"), options.pop("config")
    return {
        "out": None if out is None else Path(out),
        "file": {} if file is None else read_toml(file),
        "trials": options.pop("trials"),
        "train": not options.pop("report_only"),
        "progress": options.pop("progress"),
    }


def _study(study: Study, report: Report, common: dict[str, Any]) -> int:
    display = choose_display(common["progress"], say)
    outcome = run_study(study, report, train=common["train"], display=display, say=say)
    return finish(outcome, [study.out / f"{study.name}.md"])


def _convert(options: dict[str, Any]) -> int:
    folder, out = Path(options.pop("run")), options.pop("out")
    marks = sorted(set(options.pop("steps")))
    how = {name: options.pop(name) for name in ("percentile", "samples", "initial")}
    out = folder if out is None else Path(out)
    conversion = conversion_report.measure(load_trainer(folder, options), marks, **how)
    for line in conversion.table():
        say(line)
    out.mkdir(parents=True, exist_ok=True)
    conversion_report.write(out, conversion)
    say(f"wrote {out / 'conversion.json'} and {out / 'conversion.png'}")
    return 0
