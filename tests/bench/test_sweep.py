"""`bench sweep`: the contenders' results, the floors, and the report."""

import json
import re

import pytest
import torch
import torch.nn.functional as F
from comparing import assert_close
from torch import nn

from bench import __main__ as bench_main
from bench.common.timing import peak_memory
from bench.sweep.contenders import CONTENDERS, OURS, available
from bench.sweep.report import FLOOR, Row, as_json, compared, exponents, table
from bench.sweep.works import (
    FORWARD,
    INFERENCE,
    LIF,
    MODES,
    TRAINING,
    Size,
    floor,
    layer_step,
    network,
    neuron_step,
    neuron_steps,
    work,
)
from tssl_triton import LIFParameters
from tssl_triton.encoding import static
from tssl_triton.training.presets import EXPERIMENTS

PEERS = ("spikingjelly", "spikingjelly+synapse", "spikingjelly+compile", "snntorch", "norse")


@pytest.fixture(autouse=True)
def _eager(eager):
    """Run eagerly: compiling the loops would take longer than these tests."""


def contender(name):
    found, missing = available([name])
    if missing:
        pytest.skip(missing[0])
    return found[0]


@pytest.mark.parametrize("name", ["plain", "dense"])
@pytest.mark.parametrize("steps", [1, 7, 20])
def test_the_same_recurrence_has_the_same_gradient(name, steps):
    size = Size(steps, 3, 40)
    ours, other = (
        neuron_step(CONTENDERS[each].make(LIFParameters(), "tssl"), TRAINING, size)() for each in (OURS, name)
    )
    assert ours.any()
    assert_close("gradient", other, ours, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PEERS)
def test_peers_emit_spikes_and_have_gradients(name):
    neurons = contender(name).make(LIFParameters(), "tssl")
    current = (2 * torch.randn(6, 2, 30)).requires_grad_()
    for _ in range(2):
        spikes = neurons(current)
        assert spikes.shape == current.shape
        assert set(spikes.unique().tolist()) == {0.0, 1.0}
        (grad,) = torch.autograd.grad(spikes.sum(), current)
        assert torch.isfinite(grad).all()
        assert grad.any()
    # No state is carried between calls.
    assert torch.equal(neurons(current), spikes)


@pytest.mark.parametrize("what", ["mnist", "n-mnist", "fashion-mnist"])
def test_a_contender_s_network_differs_only_in_its_neurons(what):
    size = Size(4, 2, None)
    ours = network(what, CONTENDERS[OURS], size, "tssl")
    plain = network(what, CONTENDERS["plain"], size, "tssl")
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    shape = (2, 34, 34) if what == "n-mnist" else (1, 28, 28)
    x = (torch.rand(4, 2, *shape) < 0.3).float() if what == "n-mnist" else static(torch.randn(2, *shape), 4)
    # Sums in another order flip a few spikes at the threshold.
    assert (ours(x) != plain(x)).float().mean() < 0.02


def test_the_floor_runs_every_product_forward_and_backward():
    calls = []

    class Noting(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            calls.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    def products(mode):
        step = floor("mnist", mode, Size(2, 1, None))
        calls.clear()
        with Noting():
            step()
        return {name: calls.count(name) for name in ("mm", "convolution", "convolution_backward")}

    assert products(INFERENCE) == {"mm": 2, "convolution": 2, "convolution_backward": 0}
    assert products(TRAINING) == {"mm": 6, "convolution": 2, "convolution_backward": 2}


def test_layer_step_returns_the_gradient_of_its_input():
    layer = nn.Linear(512, 3)
    grad = layer_step(layer, "linear", TRAINING, Size(2, 4, 3))()
    assert_close("gradient", grad, layer.weight.detach().sum(0).expand(2, 4, 512))


def test_peak_memory():
    def step():
        one = torch.ones(1000)
        two = torch.ones(5000)
        del one
        three = torch.ones(500)
        return two, three

    assert 4 * 6000 <= peak_memory(step, torch.device("cpu")) < 4 * 6400


def test_neuron_steps_of_a_network():
    assert neuron_steps("fashion-mnist", Size(5, 7, None)) == 5 * 7 * (400 + 400 + 10)
    assert neuron_steps(LIF, Size(5, 7, 3)) == 105


def sweep(*words):
    arguments = bench_main.parser().parse_args(["sweep", *map(str, words)])
    with pytest.raises(SystemExit) as exit_of:
        arguments.run(arguments)
    return exit_of.value.code


COMMON = ["--implementations", OURS, "plain", "dense", "--rounds", 1]


@pytest.mark.parametrize("what", ["lif", "linear", "conv", "fashion-mnist"])
def test_the_whole_command(tmp_path, capsys, what):
    neurons = [] if what == "fashion-mnist" else ["--neurons", 256]
    files = ["--json", tmp_path / "a.json", "--png", tmp_path / "a.png"]
    sizes = ["--steps", 2, 4, "--batch", 1, "--mode", TRAINING, INFERENCE, "--memory"]
    assert sweep(what, *COMMON, *sizes, *neurons, *files) == 0
    said = capsys.readouterr().out
    assert "training, T = 2, batch 1, fp32" in said
    assert f"{OURS}, inference, fp32: exponent" in said
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert {(row["name"], row["mode"], row["steps"]) for row in rows} == {
        (name, mode, steps)
        for name in (OURS, "plain", "dense", FLOOR)
        for mode in (TRAINING, INFERENCE)
        for steps in (2, 4)
    }
    assert all(row["seconds"] > 0 for row in rows)
    assert all((row["peak"] is None) == (row["name"] == FLOOR) for row in rows)
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_sizes_that_a_contender_skips(capsys):
    assert sweep("lif", *COMMON, "--steps", 101, "--batch", 1, "--neurons", 2) == 0
    assert "dense is run only up to T = 100, not at 101" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["lif", "linear", "fashion-mnist"])
def test_other_types(what, capsys):
    neurons = [] if what in EXPERIMENTS else ["--neurons", 256 if what == "conv" else 4]
    assert sweep(what, *COMMON, "--batch", 1, *neurons, "--dtype", "bf16") == 0
    said = capsys.readouterr().out
    assert "bf16" in said
    assert "failed" not in said


def test_forward_alone_and_spikes_of_one_byte(capsys):
    names = ["--implementations", OURS, f"{OURS}, bool"]
    assert sweep("lif", *names, "--rounds", 1, "--batch", 1, "--neurons", 4, "--mode", *MODES) == 0
    said = capsys.readouterr().out
    assert "failed" not in said
    tables = said.split("\n\n")[1:4]
    assert [text.split(",")[0].strip() for text in tables] == list(MODES)
    assert [f"{OURS}, bool" in text for text in tables] == [False, False, True]


@pytest.mark.parametrize("what", ["lif", "linear", "fashion-mnist"])
def test_forward_alone_leaves_what_backward_needs(what):
    result = work(what, FORWARD, CONTENDERS[OURS], Size(3, 2, None if what == "fashion-mnist" else 8), "tssl")()
    assert result.requires_grad


def test_missing_device():
    assert "--graph captures CUDA graphs and needs --device cuda, got 'cpu'" in sweep("lif", "--graph")
    if not torch.cuda.is_available():
        assert "python -m bench sweep needs a CUDA or ROCm device" in sweep("lif", "--device", "cuda")


def row(name=OURS, steps=5, seconds=1.0):
    return Row("lif", TRAINING, name, steps, 10, 100, "fp32", "cpu", "tssl", seconds, 1e9 * seconds / 5000, None)


def test_ratios():
    lines = table([row(), row("plain", seconds=3.0), row(FLOOR, seconds=0.5)]).splitlines()
    assert lines[0] == "training, T = 5, batch 10, fp32, cpu, 100 neurons per sample"
    assert lines[3].split() == ["plain", "3000.00", "600000.00", "3.00", "6.00", "-"]


def test_exponents_are_slopes():
    rows = [row(steps=steps, seconds=1e-3 * steps**2) for steps in (40, 5, 10)]
    assert exponents(rows) == [
        f"{OURS}, training, fp32: exponent 2.00 in time steps T, 5 to 40 (batch 10, neurons 100)"
    ]


def test_comparing_with_an_earlier_report(tmp_path, capsys):
    old = json.loads(json.dumps(as_json([row(), row(steps=10), row("plain")], "another machine")))
    lines, worse = compared([row(seconds=1.1), row(steps=10, seconds=1.3), row("plain", seconds=9.0)], old, slower=1.2)
    assert worse
    assert lines[0] == "compared with another machine"
    assert len(lines) == 3
    assert lines[1].endswith("1000.00 ms then, 1100.00 ms now, 1.10")
    assert lines[2].endswith("1.30  more than 1.2 times as slow")
    assert compared([row(steps=11)], old, 1.2) == (
        ["compared with another machine", "none of its rows was measured now"],
        False,
    )

    path = tmp_path / "old.json"
    size = ["--steps", 2, "--batch", 1, "--neurons", 4]
    assert sweep("lif", *COMMON, *size, "--json", path) == 0
    saved = json.loads(path.read_text())
    for each in saved["rows"]:
        each["seconds"] = 1e-9
    path.write_text(json.dumps(saved))
    assert sweep("lif", *COMMON, *size, "--compare", path) == 1
    assert "times as slow" in capsys.readouterr().out


def test_contenders_have_the_paper_s_pooling():
    plain = network("mnist", CONTENDERS["plain"], Size(2, 1, None), "tssl")
    x = torch.rand(2, 1, 15, 24, 24)
    assert_close("pooled", plain[2](x), 1.1 * F.avg_pool2d(x.flatten(0, 1), 2, divisor_override=1).unflatten(0, (2, 1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mnist", "--neurons", "100"], "--neurons is for lif and layers: the network 'mnist' has a fixed size"),
        (["conv", "--neurons", "256", "100"], r"--neurons of conv must be multiples of 256 \(maps of 16x16\)"),
        (["lif", "--neurons", "0"], "argument --neurons: must be an integer >= 1, got '0'"),
        (["lif", "--steps", "five"], "argument --steps: must be an integer >= 1, got 'five'"),
        (["lif", "--device", "foo"], "argument --device: must be cpu, cuda or cuda:N, got 'foo'"),
        (["lif", "--json", "nowhere/x.json"], "argument --json: must be in an existing folder"),
        (["lif", "--png", "."], "argument --png: must be a file, got the folder '.'"),
        (["lif", "--compare", "nowhere.json"], "--compare: cannot read 'nowhere.json': No such file"),
        (["lif", "--compare", "empty.json"], "--compare must be a file written by --json, .*'machine'"),
        (["lif", "--compare", "list.json"], "--compare must be a file written by --json"),
        (["lif", "--compare", "text.json"], "--compare must be a file written by --json"),
    ],
)
def test_invalid_options_are_reported_before_measuring(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name, content in (("empty", '{"rows": []}'), ("list", "[1]"), ("text", "nothing")):
        (tmp_path / f"{name}.json").write_text(content)
    monkeypatch.setattr("sys.argv", ["bench", "sweep", *arguments])
    monkeypatch.setattr("bench.sweep.command.measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit) as ended:
        bench_main.main()
    said = ended.value.code if isinstance(ended.value.code, str) else capsys.readouterr().err
    assert re.search(message, said)
