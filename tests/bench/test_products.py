"""`bench products`: the share of neurons that fire is the one asked for, and both ways take the same products."""

import json
import re

import benches  # noqa: F401 - finds bench
import pytest
from comparing import relative_error

from bench import __main__, products


def command(*given):
    arguments = __main__.parser().parse_args(["products", *given])
    arguments.run(arguments)


@pytest.mark.parametrize("steps", [1, 5, 20])
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_the_share_of_neurons_that_fire_in_a_window(share, steps):
    spikes = products.drawn(share, steps, 50, 300)
    assert spikes.shape == (steps, 50, 300)
    found = [window.any(0).float().mean().item() for window in spikes.split(8)]
    # In the last window, a part of one, some fire later than it lasts.
    assert found[0] == pytest.approx(share, abs=0.02 if steps >= 8 else 0.02 + 0.5**steps * share)
    assert all(each <= share + 0.02 for each in found)


def test_both_ways_take_the_same_products():
    cases = products.cases(0.3, 5, 100, 160, 120)
    for name in ("product", "gradient"):
        assert relative_error(cases[name](), cases[f"dense_{name}"]()) < 1e-6
    assert products.cases(1.0, 5, 100, 160, 120)["product"]() is not None, "even where all fire"


def test_the_command(tmp_path, capsys):
    path, picture = tmp_path / "rows.json", tmp_path / "rows.png"
    sizes = ["--inputs", "160", "--outputs", "120", "--shares", "0.1", "0.5", "--rounds", "1"]
    command(*sizes, "--json", str(path), "--png", str(picture))
    printed = capsys.readouterr().out
    assert "160 inputs, 120 outputs, T = 5, batch 100" in printed
    rows = json.loads(path.read_text())["rows"]
    assert [row["share"] for row in rows] == [0.1, 0.5]
    for row in rows:
        line = next(line.split() for line in printed.splitlines() if line.startswith(f"{row['share']:.0%}"))
        assert line[3] == f"{row['product'] / row['dense_product']:.2f}"
        assert line[6] == f"{row['gradient'] / row['dense_gradient']:.2f}"
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize(
    ("given", "message"),
    [(["--batch", "8"], "left to dense products"), (["--shares", "0"], r"must be a number in \(0, 1\], got '0'")],
)
def test_what_it_refuses(given, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(*given)
    said = f"{stopped.value.code} {capsys.readouterr().err}"
    assert re.search(message, said)
