"""tssl reproduce, end to end on a small recipe: train, interrupt, continue, report."""

import json

import pytest

from tssl_triton import cli
from tssl_triton.cli.settings import INTERRUPTED
from tssl_triton.studies import Row, Summary, TrialResult, repeated, reproduce, trials
from tssl_triton.training import ConfigError, RecipeError, recipes

PNG = b"\x89PNG\r\n\x1a\n"

OWN = """
dataset = "digits"
arch = "12"
epochs = 2
batch_size = 200

[paper]
table = 1
steps = 5
epochs = 7
mean = 90.0
std = 0.5
best = 91.25
note = "not a real one"
"""


@pytest.fixture(autouse=True)
def _eager(eager):
    """Use the eager implementation: compiling the loops would take longer than these trainings."""


def run(*words):
    return cli.main(["reproduce", *map(str, words), "--device", "cpu", "--progress", "lines"])


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """The recipe's file, the folder of two trials of one epoch, and the printed text."""
    folder = tmp_path_factory.mktemp("reproduce")
    (folder / "own.toml").write_text(OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSSL_CPU", "eager")
        lines = []
        for module in ("settings", "studies"):
            patch.setattr(f"tssl_triton.cli.{module}.say", lines.append)
        assert run(folder / "own.toml", "--trials", 2, "--epochs", 1, "--out", folder / "out") == 0
    return folder / "own.toml", folder / "out", "\n".join(lines)


def accuracies(out):
    return [100 * trials.read_metrics(out / "own" / f"seed-{k}")[0]["test_accuracy"] for k in (0, 1)]


def test_the_report_sets_results_beside_the_paper(reproduced):
    _, out, printed = reproduced
    text = (out / "own" / "report.md").read_text()
    first, second = accuracies(out)
    mean, deviation = (first + second) / 2, abs(first - second) / 2**0.5
    heading, _, row = text.splitlines()[2:5]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    ours = ["own", "12", "5", "1", "2", f"{mean:.2f} ± {deviation:.2f}", f"{max(first, second):.2f}"]
    assert cells == [*ours, f"{mean:.2f} ± {deviation:.2f}", "7", "90.00 ± 0.50", "91.25"]
    assert len(heading) == len(row), "columns are aligned as text"
    assert "* own: 1 epoch, the paper has 7" in text
    assert "* own: 2 trials, the paper has 5" in text
    assert "* own: paper: not a real one" in text
    assert "| own, seed 1 | 1 " in text
    assert "![learning_curves.png](learning_curves.png)" in text
    assert "\n".join(text.splitlines()[:8]) in printed
    assert f"reports: {out / 'own' / 'report.md'}" in printed


def test_the_report_as_json(reproduced):
    _, out, _ = reproduced
    text = (out / "own" / "report.json").read_text()
    (row,) = json.loads(text)["rows"]
    assert [trial["test_accuracy"] for trial in row["trials"]] == [[value] for value in accuracies(out)]
    assert [trial["folder"] for trial in row["trials"]] == ["own/seed-0", "own/seed-1"]
    assert row["best"] == max(accuracies(out))
    assert row["paper"]["best"] == 91.25
    assert row["settings"]["epochs"] == 1
    assert row["settings"]["arch"] == "12"
    assert str(out) not in text, "a report can be kept elsewhere"


def test_learning_curves(reproduced):
    _, out, _ = reproduced
    assert (out / "own" / "learning_curves.png").read_bytes().startswith(PNG)
    assert not list(out.rglob("*.part"))


def test_finished_trials_are_read_and_more_are_added(reproduced, monkeypatch, capsys):
    recipe, out, _ = reproduced
    before = (out / "own" / "seed-0" / "checkpoint.pt").stat().st_mtime_ns
    assert run(recipe, "--trials", 3, "--epochs", 1, "--out", out) == 0
    assert (out / "own" / "seed-0" / "checkpoint.pt").stat().st_mtime_ns == before
    assert "2 of 3 trials are already finished" in capsys.readouterr().out
    assert "| own, seed 2 |" in (out / "own" / "report.md").read_text()
    monkeypatch.setattr(trials, "train_trial", lambda *_: pytest.fail("trained"))
    assert run(recipe, "--trials", 2, "--epochs", 1, "--out", out) == 0
    assert "| own, seed 2 |" not in (out / "own" / "report.md").read_text()


def test_other_epochs_are_refused(reproduced, capsys):
    recipe, out, _ = reproduced
    assert run(recipe, "--trials", 2, "--out", out) == 2
    assert "contains a run of 1 epochs with schedule 'cosine', the trial has 2 epochs" in capsys.readouterr().err


def test_an_interrupted_command_continues(tmp_path, reproduced, monkeypatch, capsys):
    recipe, out, _ = reproduced
    words = (recipe, "--trials", 2, "--epochs", 1, "--out", tmp_path)
    train = trials.train_trial

    def interrupted(folder, trial, *others):
        return trial.config.seed == 0 and train(folder, trial, *others)

    monkeypatch.setattr(trials, "train_trial", interrupted)
    assert run(*words) == INTERRUPTED
    assert "the same command continues it" in capsys.readouterr().out
    text = (tmp_path / "own" / "report.md").read_text()
    assert "* own: 1 of 2 trials are complete" in text
    monkeypatch.setattr(trials, "train_trial", train)
    assert run(*words) == 0
    assert accuracies(tmp_path) == accuracies(out)
    assert (tmp_path / "own" / "report.md").read_text() == (out / "own" / "report.md").read_text()


def test_a_missing_data_set_is_reported_and_the_others_continue(tmp_path, reproduced, capsys):
    recipe, _, _ = reproduced
    out = tmp_path / "out"
    words = ("--trials", 1, "--epochs", 1, "--out", out, "--data-root", tmp_path / "none", "--no-download")
    assert run("table1", recipe, *words) == 2
    captured = capsys.readouterr()
    assert captured.err == "tssl: error: 1 trials failed, of mnist\n"
    assert "* mnist: mnist not found: looked for train-images-idx3-ubyte" in (out / "table1" / "report.md").read_text()
    assert "HM2-BP" in (out / "table1" / "report.md").read_text()
    assert "| own, seed 0 |" in (out / "own" / "report.md").read_text()
    assert json.loads((out / "table1" / "report.json").read_text())["rows"][0]["mean"] is None


def test_report_only_trains_nothing(tmp_path, reproduced, capsys):
    recipe, _, _ = reproduced
    assert run(recipe, "--trials", 1, "--epochs", 1, "--out", tmp_path, "--report-only") == 0
    assert not (tmp_path / "own" / "seed-0").exists()
    assert "* own: 0 of 1 trials are complete" in (tmp_path / "own" / "report.md").read_text()


def test_a_figure_measures_the_first_trial(tmp_path, reproduced, monkeypatch, capsys):
    recipe, _, _ = reproduced
    monkeypatch.setitem(reproduce.FIGURES, "fig7", ("firing sparsity", str(recipe)))
    assert run("fig7", "--epochs", 1, "--out", tmp_path) == 0
    assert not (tmp_path / "own" / "seed-1").exists(), "a figure shows one network"
    assert "| overall | 22 " in capsys.readouterr().out
    assert json.loads((tmp_path / "fig7" / "sparsity.json").read_text())["epochs"] == 1
    assert (tmp_path / "fig7" / "sparsity.png").read_bytes().startswith(PNG)
    assert run("fig7", "--epochs", 1, "--out", tmp_path) == 0
    assert "![sparsity.png](sparsity.png)" in (tmp_path / "fig7" / "report.md").read_text()


def test_targets():
    assert [recipe.name for recipe in reproduce.find_target("table2").recipes] == ["n-mnist-100", "n-mnist-30"]
    assert reproduce.find_target("table4").title == "Table 4: CIFAR-10"
    assert reproduce.find_target("fig8").figure
    for name in (*reproduce.TABLES, *reproduce.FIGURES, *recipes.NAMES):
        assert reproduce.find_target(name).recipes
    with pytest.raises(RecipeError, match=r"unknown target 'table5': known are table1, .* and recipes in \.toml files"):
        reproduce.find_target("table5")


def test_plan_shares_trials(tmp_path):
    reports = reproduce.plan(["table2", "fig7", "n-mnist-30", "table2"], tmp_path, device="cpu")
    assert [report.target.name for report in reports] == ["table2", "fig7", "n-mnist-30"]
    assert [report.study.trials for report in reports] == [5, 5, 5]
    assert len({trial for report in reports for trial in report.study.all_trials()}) == 10
    (figure,) = reproduce.plan(["fig7"], tmp_path)
    assert [str(trial) for trial in figure.study.all_trials()] == ["n-mnist-100, seed 0"]
    with pytest.raises(ConfigError, match="trials must be >= 1, got 0"):
        reproduce.plan(["table1"], tmp_path, trials=0)


def test_two_recipes_of_one_name(tmp_path):
    (tmp_path / "mnist.toml").write_text("lr = 1e-2\n")
    with pytest.raises(ConfigError, match="two recipes with different settings are named mnist"):
        reproduce.plan(["mnist", str(tmp_path / "mnist.toml")], tmp_path)


def test_a_recipe_named_as_a_table(tmp_path):
    (tmp_path / "table1.toml").write_text('dataset = "digits"\n')
    with pytest.raises(ConfigError, match="2 targets are named table1, and would overwrite each other's report"):
        reproduce.plan([str(tmp_path / "table1.toml"), "table1"], tmp_path)


def test_a_recipe_whose_name_is_no_folder_s(tmp_path):
    (tmp_path / "my run.toml").write_text('dataset = "digits"\n')
    with pytest.raises(RecipeError, match=r"the name of recipe .*my run\.toml is also that of a folder: it must be"):
        reproduce.plan([str(tmp_path / "my run.toml")], tmp_path)


def test_curves_of_trials_of_different_length(tmp_path):
    (report,) = reproduce.plan(["cifar10-cnn2"], tmp_path, trials=2, epochs=3)
    (variant,) = report.study.variants
    config = report.study.config(variant)
    assert config == recipes.read("cifar10-cnn2").config(epochs=3)
    results = []
    for seed, length in ((0, 3), (1, 1)):
        history = [{"epoch": n + 1, "test_accuracy": 0.5 + n / 10, "seconds": 2.0} for n in range(length)]
        results.append(TrialResult(repeated("x", config, 2)[seed], tmp_path / "x", history))
    row = Row(variant, config, Summary("x", tuple(results)))
    report.draw(tmp_path / "curves.png", [row])
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)
    remarks = report.remarks(row)
    assert "1 of 2 trials are complete" in remarks
    assert "paper: a single trial" in remarks
    assert not any("the paper has 5" in remark for remark in remarks), "this row of the paper has one trial"


def test_without_matplotlib(tmp_path, reproduced, monkeypatch, capsys):
    recipe, _, _ = reproduced

    def missing(*_):
        raise reproduce.MissingExtraError("the learning curves need matplotlib, which is not installed")

    monkeypatch.setattr(reproduce.ReproductionReport, "draw", missing)
    assert run(recipe, "--trials", 2, "--epochs", 1, "--out", tmp_path) == 0
    assert capsys.readouterr().out.count("no figure: ") == 1
    assert "learning_curves.png" not in (tmp_path / "own" / "report.md").read_text()
