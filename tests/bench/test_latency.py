"""`bench latency`: each network in two processes, which share a cache."""

import json

import benches  # noqa: F401 - finds bench
import pytest

from bench import __main__, latency


def test_what_a_process_measures(eager):
    found = latency.measured("fashion-mnist", 2, started=0.0)
    assert set(found) == {"imports", "first", "second"}
    assert all(seconds > 0 for seconds in found.values())


def test_the_command(monkeypatch, tmp_path, capsys):
    caches = []

    def process(network, batch, cache):
        caches.append((network, batch, cache))
        return {"imports": 1.0, "first": 30.0 if len(caches) % 2 else 4.0, "second": 0.01}

    monkeypatch.setattr(latency, "in_a_new_process", process)
    path = tmp_path / "rows.json"
    arguments = __main__.parser().parse_args(["latency", "--batch", "7", "--json", str(path)])
    arguments.run(arguments)
    assert [network for network, _, _ in caches] == ["mnist", "mnist", "fashion-mnist", "fashion-mnist"]
    assert all(batch == 7 for _, batch, _ in caches)
    assert caches[0][2] == caches[1][2] != caches[2][2] == caches[3][2]
    printed = capsys.readouterr().out
    assert "empty     1.0 s      30.0 s        10 ms" in printed
    assert "filled    1.0 s       4.0 s        10 ms" in printed
    assert [row["cached"] for row in json.loads(path.read_text())["rows"]] == [False, True] * 2


@pytest.mark.slow
def test_a_second_process_does_not_compile_again(tmp_path):
    first, second = (latency.in_a_new_process("fashion-mnist", 2, str(tmp_path)) for _ in range(2))
    assert second["first"] < 0.7 * first["first"]
