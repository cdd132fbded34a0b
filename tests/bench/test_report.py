"""`bench static`: rows, tables and figure."""

import argparse

import pytest

pytest.importorskip("triton")

from bench.static import command, peers, table
from bench.static.examined import Code, Setting, model
from bench.static.hardware import H100
from bench.static.traffic import Traffic

NEURONS = 272
SETTING = Setting("lif backward", 5, "bf16", "sm_90")
CODE = Code(
    registers=64, spilled=0, shared=0, warps=4, occupancy=0.5, loads={16: 10.0, 8: 1.0}, stores={16: 5.0},
    instructions=48.0, vector=48.0, special=3.0, bytes=6.2, code_bytes=2048,
)  # fmt: skip


@pytest.fixture
def row():
    values, words = 2 * 5 * NEURONS, NEURONS
    traffic = {name: Traffic(loaded=values, distinct_loaded=values) for name in ("grad_spikes_ptr", "current_ptr")}
    traffic["grad_current_ptr"] = Traffic(stored=values, distinct_stored=values)
    traffic["words_ptr"] = Traffic(loaded=4 * words, distinct_loaded=words)
    traffic["checkpoints_ptr"] = Traffic(loaded=10 * NEURONS, distinct_loaded=10 * NEURONS)
    return model(SETTING, CODE, traffic)


def test_row_of_compiled_and_counted_figures(row):
    assert row.bytes == row.compulsory == pytest.approx(6.2)
    assert row.checkpoints == pytest.approx(2.0)
    assert row.milliseconds == {
        "H100": pytest.approx(1e12 * max(8.2 / 3.35e12, 48 / (132 * 128 * 1.98e9))),
        "H200": pytest.approx(1e12 * max(8.2 / 4.8e12, 48 / (132 * 128 * 1.98e9))),
    }
    assert row.issue_use == pytest.approx(H100.issue_seconds(48.0) * 3.35e12 / 8.2)


@pytest.mark.parametrize("form", [table.text, table.markdown])
def test_tables_are_labelled(row, form):
    text = form([row])
    assert "compiled and modelled, not timed" in text.splitlines()[0]
    for cell in ("lif backward", "128 x 10, 64 x 1", "H100 ms", "datasheet", "16 bytes per neuron-step"):
        assert cell in text


def test_figure(row, tmp_path):
    pytest.importorskip("matplotlib")
    from bench.static.roofline import draw, use

    draw([row], str(tmp_path / "static.png"))
    assert (tmp_path / "static.png").read_bytes().startswith(b"\x89PNG")
    assert use(H100, row) == pytest.approx(row.issue_use)


def arguments(**options):
    return argparse.Namespace(**{"kernels": None, "dtypes": ["fp32"], "steps": [5], "targets": ["sm_90"], **options})


def test_options_restrict_the_settings():
    assert command.chosen(arguments(kernels=["unpack"])) == [Setting("unpack", 5, "fp32", "sm_90")]
    with pytest.raises(SystemExit, match="no kernel is called 'nothing'"):
        command.chosen(arguments(kernels=["nothing"]))


def test_peers_that_are_not_installed_are_named(monkeypatch):
    def missing():
        raise ImportError("No module named 'peer'")

    monkeypatch.setattr(peers, "PEERS", {"peer": missing})
    found, lines = peers.load.__wrapped__()
    assert found == ()
    assert lines == ("no rows for peer: No module named 'peer'; pip install -e '.[peers]'",)
