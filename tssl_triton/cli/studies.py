"""Commands that compare several runs, ``tssl reproduce``, ``compare`` and ``ablate``, and ``tssl convert``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tssl_triton.studies import AblationReport, ComparisonReport, Report, ablate, compare, convert, reproduce, run_study
from tssl_triton.training import FIELD_TYPES, TrainConfig, choose_display, load_trainer, read_toml, recipes, resolve

from .settings import PLACEMENT, add_progress, add_settings, finish, say

_CONTINUES = "Finished trials are read, interrupted ones continue: run the same command again to continue."


def add_to(commands: Any) -> None:
    """Add the parsers of these commands."""
    parser = commands.add_parser(
        "reproduce",
        help="reproduce the paper's tables and figures",
        description="Train the networks of a table or figure of the paper, several trials each, and compare the "
        f"results with the printed numbers. {_CONTINUES}",
    )
    parser.set_defaults(command=_reproduce)
    targets = ", ".join((*reproduce.TABLES, *reproduce.FIGURES, *recipes.NAMES))
    parser.add_argument("targets", nargs="+", metavar="TARGET", help=f"{targets}, or a recipe in a .toml file")
    parser.add_argument(
        "--out", metavar="DIR", default="runs/reproduce", help="folder of results (default: %(default)s)"
    )
    parser.add_argument("--trials", type=int, metavar="N", help="trials per row (default: 5, for figures 1)")
    parser.add_argument(
        "--epochs", type=int, metavar="N", default=argparse.SUPPRESS, help="epochs (default: the paper's)"
    )
    _add_report(parser)
    add_settings(parser, (*PLACEMENT, "recompute"))

    parser = commands.add_parser(
        "compare",
        help="train several learning rules with equal settings",
        description="Train a network by several learning rules with the same settings, data order and initial weights, "
        f"and draw accuracy over epochs, time steps and seconds. {_CONTINUES}",
    )
    parser.set_defaults(command=_compare)
    methods = compare.METHODS
    parser.add_argument(
        "--rules", nargs="+", choices=methods, default=list(methods), help="rules to compare (default: all)"
    )
    parser.add_argument(
        "--over-steps", nargs="+", type=int, metavar="T", default=[], help="also train spiking rules with T steps"
    )
    _add_study(parser, "compare", [name for name in FIELD_TYPES if name != "rule"])

    parser = commands.add_parser(
        "ablate",
        help="train with parts of TSSL-BP left out",
        description="Train a network by TSSL-BP and by variants with one part left out or changed, with equal "
        f"settings, and report the effect of each part. {_CONTINUES}",
        epilog="rows:\n" + "\n".join(f"  {variant.name:<16} {variant.text}" for variant in ablate.ABLATIONS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=_ablate)
    rows = tuple(ablate.ABLATIONS)
    parser.add_argument(
        "--rows", nargs="+", metavar="ROW", choices=rows, default=list(rows), help="rows besides full (default: all)"
    )
    _add_study(parser, "ablate", [name for name in FIELD_TYPES if name not in ablate.VARIED])

    parser = commands.add_parser(
        "convert",
        help="convert a trained ANN to a spiking network and test it",
        description="Convert the network of a run with --rule ann to integrate-and-fire neurons, with thresholds "
        "balanced by its activations on training images, and test it after several numbers of time steps. Writes "
        "conversion.json and conversion.png.",
    )
    parser.set_defaults(command=_convert)
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--steps",
        nargs="+",
        type=int,
        metavar="T",
        default=list(convert.MARKS),
        help=f"numbers of time steps (default: {' '.join(map(str, convert.MARKS))})",
    )
    parser.add_argument(
        "--percentile",
        type=float,
        metavar="P",
        default=99.9,
        help="percentile of a layer's activations that becomes a firing rate of 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--samples", type=int, metavar="N", default=1000, help="training samples to measure (default: %(default)s)"
    )
    parser.add_argument(
        "--initial",
        type=float,
        metavar="V",
        default=0.0,
        help="membrane potential at the first step, as a share of the threshold (default: %(default)s)",
    )
    parser.add_argument("--out", metavar="DIR", help="folder of the files (default: RUN)")
    add_settings(parser, PLACEMENT)


def _add_study(parser: argparse.ArgumentParser, name: str, settings: Sequence[str]) -> None:
    """Options of `compare` and `ablate`."""
    parser.add_argument("--trials", type=int, metavar="K", default=1, help="trials per row (default: %(default)s)")
    parser.add_argument("--out", metavar="DIR", help=f"folder of results (default: runs/{name}-DATASET)")
    parser.add_argument("--config", metavar="FILE", help="TOML file of settings, named like the flags")
    _add_report(parser)
    add_settings(parser, settings)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--report-only", action="store_true", help="report existing results without training")
    add_progress(parser)


def _how(options: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `run_study` from the options that `_add_report` added, which are removed."""
    display = choose_display(options.pop("progress"), say)
    return {"train": not options.pop("report_only"), "display": display, "say": say}


def _reproduce(options: dict[str, Any]) -> int:
    names, out, trials = options.pop("targets"), Path(options.pop("out")), options.pop("trials")
    how = _how(options)
    reports = reproduce.plan(names, out, trials, **options)
    return finish(reproduce.reproduce(reports, **how), [report.study.file(".md") for report in reports])


def _compare(options: dict[str, Any]) -> int:
    rules, over_steps, how = options.pop("rules"), options.pop("over_steps"), _how(options)
    base, out, trials = _common(options, "compare")
    study = compare.plan(rules, base, out, trials, over_steps)
    return _study(ComparisonReport(study, {name: getattr(base, name) for name in PLACEMENT}, say), how)


def _ablate(options: dict[str, Any]) -> int:
    rows, how = options.pop("rows"), _how(options)
    return _study(AblationReport(ablate.plan(*_common(options, "ablate"), rows)), how)


def _common(options: dict[str, Any], name: str) -> tuple[TrainConfig, Path, int]:
    """Base settings, output folder and number of trials from the options that `_add_study` added."""
    out, file, trials = options.pop("out"), options.pop("config"), options.pop("trials")
    base = resolve(options, {} if file is None else read_toml(file))
    return base, Path(f"runs/{name}-{base.dataset}" if out is None else out), trials


def _study(report: Report, how: dict[str, Any]) -> int:
    return finish(run_study(report, **how), [report.study.file(".md")])


def _convert(options: dict[str, Any]) -> int:
    folder, out = Path(options.pop("run")), options.pop("out")
    marks = sorted(set(options.pop("steps")))
    how = {name: options.pop(name) for name in ("percentile", "samples", "initial")}
    out = folder if out is None else Path(out)
    conversion = convert.measure(load_trainer(folder, options), marks, **how)
    for line in conversion.table():
        say(line)
    out.mkdir(parents=True, exist_ok=True)
    convert.write(out, conversion)
    say(f"wrote {out / 'conversion.json'} and {out / 'conversion.png'}")
    return 0
