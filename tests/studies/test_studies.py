"""Comparisons of learning rules and ablations: training, reports, figures and errors."""

import dataclasses
import json
import statistics

import pytest
import torch

from tssl_triton import cli, data
from tssl_triton.studies import (
    ABLATIONS,
    AblationReport,
    ComparisonReport,
    Row,
    Study,
    Summary,
    Trial,
    TrialResult,
    Variant,
    ablate,
    accuracy_over_time,
    compare,
    run_study,
    trials,
)
from tssl_triton.studies.study import difference
from tssl_triton.training import ConfigError, TrainConfig, Trainer, load_trainer, resolve

SMALL = {"arch": "16", "epochs": 1, "batch_size": 100, "lr": 5e-3, "steps": 4, "device": "cpu"}


def hurry(patch):
    """Skip compiling and learning curves, which would take longer than these trainings."""
    patch.setenv("TSSL_CPU", "eager")
    patch.setattr("tssl_triton.training.run.draw_learning_curve", lambda *_: None)


@pytest.fixture(autouse=True)
def _hurried(monkeypatch):
    hurry(monkeypatch)


def config(**settings):
    return resolve(SMALL | settings, {})


def ignore(line):
    pass


def files(study):
    text = (study.out / f"{study.name}.md").read_text()
    assert (study.out / f"{study.name}.png").read_bytes().startswith(b"\x89PNG")
    return text, json.loads((study.out / f"{study.name}.json").read_text())


def cells(text, first):
    """The cells of the first table row of this name."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


# --- plans ----------------------------------------------------------------------------------------------------------


def test_every_ablation_is_a_valid_change():
    assert next(iter(ABLATIONS)) == ablate.FULL
    assert not ABLATIONS[ablate.FULL].changes
    base = TrainConfig()
    for variant in ABLATIONS.values():
        changed = dataclasses.replace(base, **variant.changes)
        assert (changed == base) == (variant.name == ablate.FULL)
        assert set(variant.changes) <= ablate.VARIED
    changes = [variant.changes for variant in ABLATIONS.values()]
    for wanted in ({"warmup": "always"}, {"variant": "no-intra"}, {"variant": "no-leak"}, {"variant": "paper"}):
        assert wanted in changes
    assert [c["max_slope"] for c in changes if "max_slope" in c] == [2, 4, 16, 32]


def test_the_full_rule_is_always_among_the_rows(tmp_path):
    study = ablate.plan(config(), tmp_path, 2, ["paper", "no-leak"])
    assert [variant.name for variant in study.variants] == ["full", "no-leak", "paper"]
    assert [str(trial) for trial in study.all_trials()][:2] == ["full, seed 0", "full, seed 1"]


def test_rules_differ_in_the_rule_alone(tmp_path):
    base = config(seed=5)
    study = compare.plan(["stbp", "ann", "tssl", "ann"], base, tmp_path, 1, [9, 2, 4])
    names = [variant.name for variant in study.variants]
    assert names == ["stbp", "ann", "tssl", "stbp-T2", "stbp-T9", "tssl-T2", "tssl-T9"]
    for variant in study.variants:
        changed = study.config(variant)
        assert dataclasses.replace(changed, rule=base.rule, steps=base.steps) == base


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda out: ablate.plan(config(), out, 1, ["half"]), "rows must be of full, no-intra, .*; got 'half'"),
        (lambda out: ablate.plan(config(rule="stbp"), out, 1), "rule must be tssl for an ablation, got 'stbp'"),
        (lambda out: ablate.plan(config(), out, 0), "trials must be >= 1, got 0"),
        (lambda out: compare.plan(["hebb"], config(), out, 1), "rules must be of tssl, .*ann; got 'hebb'"),
        (lambda out: compare.plan([], config(), out, 1), "rules must contain at least one of tssl, "),
        (lambda out: compare.plan(["tssl"], config(), out, 1, [0]), "steps must be >= 1, got 0"),
        (
            lambda out: Study("x", "X", out, config(), (Variant("a", "", {"max_slop": 2}),), 1),
            "unknown setting 'max_slop' in variant a; did you mean 'max_slope'",
        ),
    ],
)
def test_invalid_plans(tmp_path, make, message):
    with pytest.raises(ConfigError, match=message):
        make(tmp_path)


# --- ablation -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    study = ablate.plan(config(), tmp_path_factory.mktemp("ablation"), 2, ["warmup-only", "slope-2"])
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        outcome = run_study(AblationReport(study), say=ignore)
    return study, outcome


def test_an_ablation_is_written_down(ablation):
    study, outcome = ablation
    assert len(outcome.results) == 6
    text, content = files(study)
    rows = {row["name"]: row for row in content["rows"]}
    assert list(rows) == ["full", "warmup-only", "slope-2"]
    assert content["settings"]["arch"] == "16"
    for name, row in rows.items():
        best = [max(trial["test_accuracy"]) for trial in row["trials"]]
        assert row["mean"] == pytest.approx(statistics.fmean(best))
        assert row["std"] == pytest.approx(statistics.stdev(best))
        assert row["best"] == max(best)
        assert f"{row['mean']:.2f} ± {row['std']:.2f}" in cells(text, name)
    gain = rows["slope-2"]["mean"] - rows["full"]["mean"]
    assert content["minus_full"]["slope-2"] == pytest.approx(gain)
    assert cells(text, "slope-2")[-1] == f"{gain:+.2f}"
    assert rows["warmup-only"]["changes"] == {"warmup": "always"}


def test_all_rows_begin_with_the_same_weights_and_go_different_ways(ablation):
    study, outcome = ablation
    losses = {result.trial.name: result.history[-1]["loss"] for result in outcome.results}
    assert len(set(losses.values())) == len(losses)
    start = [Trainer(study.config(v), data.load("digits")).network[0].weight for v in study.variants]
    assert torch.equal(start[0], start[1])


def test_a_study_continues(ablation, monkeypatch):
    study, outcome = ablation
    monkeypatch.setattr(trials, "train_trial", lambda *_: pytest.fail("trained again"))
    lines = []
    again = run_study(AblationReport(study), say=lines.append)
    assert again.results == outcome.results
    assert lines[0] == "6 of 6 trials are already finished"
    assert run_study(AblationReport(study), train=False, say=ignore).results == outcome.results


def test_a_report_without_results(tmp_path):
    study = ablate.plan(config(), tmp_path / "none", 2, ["paper"])
    run_study(AblationReport(study), train=False, say=ignore)
    assert cells((study.out / "ablation.md").read_text(), "paper")[-1] == "-"
    assert not (study.out / "ablation.png").exists()


def test_a_difference_is_over_the_seeds_that_both_have(tmp_path):
    def row(name, best):
        made = tuple(
            TrialResult(Trial(name, config(seed=seed)), tmp_path, [{"test_accuracy": accuracy}])
            for seed, accuracy in best.items()
        )
        return Row(Variant(name, "", {}), config(), Summary(name, made) if made else None)

    full = row("full", {0: 0.5, 1: 0.75, 2: 0.25})
    assert difference(row("a", {1: 0.5, 2: 0.25, 3: 1.0}), full) == pytest.approx(-0.125)
    assert difference(row("b", {7: 0.5}), full) is None
    assert difference(row("c", {}), full) is None


# --- comparison ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    study = compare.plan(["tssl", "ann"], config(), tmp_path_factory.mktemp("comparison"), 2, [2, 4])
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        outcome = run_study(ComparisonReport(study, {}, ignore), say=ignore)
    return study, outcome


def test_a_comparison_is_written_down(comparison):
    study, outcome = comparison
    assert {result.trial.name for result in outcome.results} == {"tssl", "ann", "tssl-T2"}
    text, content = files(study)
    curves = content["curves"]
    assert list(curves) == ["tssl", "ann"]
    for name, curve in curves.items():
        of_name = [result for result in outcome.results if result.trial.name == name]
        mean = [100 * statistics.fmean(shares) for shares in zip(*(r.accuracies for r in of_name), strict=True)]
        assert curve["accuracy_over_epochs"] == pytest.approx(mean)
        assert len(curve["seconds_over_epochs"]) == 1
    assert curves["tssl"]["accuracy_over_time"][-1] == pytest.approx(curves["tssl"]["accuracy_over_epochs"][-1])
    assert len(curves["tssl"]["accuracy_over_time"]) == 4
    assert curves["ann"]["accuracy_over_time"] == []
    trained = curves["tssl"]["trained_with_steps"]
    assert list(trained) == ["2", "4"]
    assert trained["4"]["last_mean"] == pytest.approx(curves["tssl"]["accuracy_over_epochs"][-1])
    assert cells(text, "ann")[:3] == ["ann", "1", "2"]
    assert "trained by cross entropy and has no time" in text


def test_accuracy_over_time_is_measured_once(comparison, monkeypatch):
    result = comparison[1].results[0]
    measured = json.loads((result.folder / accuracy_over_time.FILE).read_text())
    assert measured["epoch"] == 1
    monkeypatch.setattr(accuracy_over_time, "accuracy_over_time", lambda trainer: pytest.fail("measured again"))
    assert accuracy_over_time.of_trial(result, {}) == measured["accuracy"]


def test_seconds_pass_over_the_epochs_that_all_trials_have(tmp_path):
    def result(seed, *epochs):
        history = [{"seconds": seconds, "test_accuracy": accuracy} for seconds, accuracy in epochs]
        return TrialResult(Trial("x", config(seed=seed)), tmp_path, history)

    results = (result(0, (1.0, 0.25), (2.0, 0.5), (9.0, 1.0)), result(1, (3.0, 0.75), (4.0, 1.0)))
    row = Row(Variant("x", "", {}), config(), Summary("x", results))
    assert compare._over_seconds(row) == ([2.0, 5.0], [0.5, 0.75])


@pytest.mark.parametrize("readout", ["count", "psc"])
def test_accuracy_after_a_step_is_that_of_a_shorter_presentation(comparison, readout):
    trainer = load_trainer(comparison[1].results[0].folder, {})
    whole = dataclasses.replace(trainer.config, readout=readout)
    trainer.config = whole
    read = accuracy_over_time.accuracy_over_time(trainer)
    assert len(read) == 4
    for steps, accuracy in enumerate(read, 1):
        trainer.config = dataclasses.replace(whole, steps=steps)
        assert trainer.test().accuracy == pytest.approx(accuracy, abs=1 / 360)


def test_the_ann_has_no_time(comparison):
    result = next(r for r in comparison[1].results if r.trial.name == "ann")
    with pytest.raises(ConfigError, match="rule 'ann' has no time steps"):
        accuracy_over_time.of_trial(result, {})


# --- the commands -------------------------------------------------------------------------------------------------


def test_the_commands(tmp_path, capsys):
    words = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    words += ["--progress=lines", "--out", str(tmp_path / "compare")]
    assert cli.main(["compare", *words, "--rules", "ann"]) == 0
    assert cli.main(["compare", *words, "--rules", "ann", "tssl", "--report-only"]) == 0
    out = capsys.readouterr().out
    assert out.endswith(f"reports: {tmp_path / 'compare' / 'compare.md'}\n")
    assert "* tssl: 0 of 1 trials are complete" in out
    words[-1] = str(tmp_path / "ablate")
    assert cli.main(["ablate", *words, "--rows", "paper"]) == 0
    assert "| paper " in capsys.readouterr().out
    assert cli.main(["ablate", *words, "--rows", "paper", "--lr=0.5"]) == 2
    assert "contains a run with lr 0.005, the trial has 0.5" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["ablate", *words, "--warmup", "off"])  # settings that rows vary are not settings of the study
