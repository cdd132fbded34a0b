"""`bench gpu` as far as it goes without a GPU: percentiles, bytes, the gate, the command, its reports."""

import json
import sys
from time import sleep

import benches  # noqa: F401 - finds bench
import pytest
import torch

from bench import __main__
from bench.common import events
from bench.common.tables import aligned
from bench.gpu import cases as gpu_cases
from bench.gpu import command as gpu
from bench.gpu import gate as gpu_gate
from bench.gpu import layers as gpu_layers
from bench.gpu import report as gpu_report
from bench.gpu.cases import KERNELS, FusedCase, KernelCase, LayerCase, StepCase, all_cases, plan
from bench.gpu.prediction import predicted
from bench.gpu.report import Row
from tssl_triton import SpikingConv2d
from tssl_triton.training.presets import EXPERIMENTS

CPU = torch.device("cpu")
TINY = ["--device", "cpu", "--rounds", "2", "--neuron-steps", "64", "--copy-bytes", "65536", "--batch", "1"]


@pytest.fixture(autouse=True)
def _eager(eager):
    """Compiling the loops would take longer than these tests; the arithmetic is the same."""


@pytest.fixture
def short(monkeypatch):
    """Fewer time steps and neurons, in the gate and in the cases."""
    monkeypatch.setattr(gpu_gate, "STEPS", (5,))
    monkeypatch.setattr(gpu_gate, "NEURONS", 101)
    monkeypatch.setattr(gpu_cases, "STEPS", (5, 8))


class FakeClock:
    """Every run takes as long as the list says; nobody may ask before `wait`."""

    def __init__(self, seconds):
        self.durations = iter(seconds)
        self.waited = False
        self.now = 0.0
        self.running = False

    def mark(self):
        if self.running:
            self.now += next(self.durations)
        self.running = not self.running
        return self.now

    def wait(self):
        self.waited = True

    def seconds(self, start, end):
        assert self.waited, "asked for a time that the device may not have reached"
        return end - start


def test_percentiles():
    done = []
    clock = FakeClock([1.0, *(float(second) for second in range(1, 12))])
    time = events.measure(lambda: done.append("work"), clock, 11, before=lambda: done.append("before"))
    assert (time.p20, time.p50, time.p80) == pytest.approx((3.0, 6.0, 9.0))
    looking = ["work"] * 3 + ["before"]
    assert done == ["work"] * events.WARMUP + looking + ["before", "work"] * 11


def test_the_device_is_kept_busy_while_the_host_queues():
    def work():
        sleep(0.004)

    # A flush of a millisecond: four are as long as queueing, and half as many again are asked for.
    assert 6 <= events.repeats(work, lambda: None, FakeClock([1e-3])) < 20
    assert events.repeats(work, lambda: None, events.HostClock()) == 1


def test_bandwidth_of_a_copy_counts_reading_and_writing():
    assert events.copy_bandwidth(CPU, FakeClock([0.5] * 4), 4, size=1000) == pytest.approx(4000.0)


def test_the_host_s_clock():
    assert 0 < events.measure(lambda: sum(range(1000)), events.HostClock(), 5).p50 < 1


@pytest.mark.parametrize(
    ("name", "steps", "dtype", "per_neuron_step"),
    [
        # Read y, write s and a bit; read G, y and the bit, write the gradient.
        ("lif forward", 8, torch.float32, 8.125),
        ("lif forward", 8, torch.bfloat16, 4.125),
        ("lif backward", 8, torch.float32, 12.125),
        ("lif backward", 8, torch.float16, 6.125),
        # Three constants in; three in and their gradients out.
        ("lif forward, learnt constants", 8, torch.float32, 8.125 + 12 / 8),
        ("lif backward, learnt constants", 8, torch.float32, 12.125 + 24 / 8),
        # A word of one byte for five steps.
        ("lif forward", 5, torch.float32, 8.2),
        # Three checkpoints of three numbers, for the windows after the first.
        ("lif forward", 32, torch.float32, 8 + 4 / 32 + 3 * 3 * 4 / 32),
        ("pack", 32, torch.float32, 4.125),
        ("unpack", 32, torch.float16, 2.125),
        ("psc", 4, torch.float32, 8),
    ],
)
def test_bytes(name, steps, dtype, per_neuron_step):
    case = KernelCase(name, dtype, steps, 1024)
    assert case.bytes() == per_neuron_step * steps * 1024
    assert predicted(case, 2048.0).seconds == pytest.approx(per_neuron_step * steps / 2)


def test_composed_layers_by_fused_ones():
    rows = [
        Row(gpu_layers.pair_name(pixels, 256, fused), "bf16", 5, pixels, events.Quantiles(t, t, t), None, None, None)
        for pixels, fused, t in ((256, True, 4.0), (256, False, 2.0), (16384, True, 1.0), (16384, False, 1.5))
    ]
    _, few, many = gpu_layers.ratios(rows).splitlines()
    assert few.split() == ["bf16", "256", "-", "0.50", "-"]
    assert many.split() == ["bf16", "16384", "-", "1.50*", "-"], "a star where the layer is fused today"
    assert gpu_layers.ratios(rows[:1]) == ""


def test_both_layers_of_a_pair_run():
    for fused in (True, False):
        case = gpu_layers.pair(64, 8, torch.bfloat16, fused)
        assert (case.batch, case.neurons) == (1, 64 * 8)
        assert gpu.measured(case, CPU, events.HostClock(), 1, 1e9).time.p50 > 0


def test_the_cases_are_what_was_promised():
    cases = all_cases(torch.device("cuda"))
    kernels = [case for case in cases if isinstance(case, KernelCase)]
    assert {case.name for case in kernels} == set(KERNELS)
    assert len(kernels) == 11 * 3 * 5
    fused = [case for case in cases if isinstance(case, FusedCase)]
    assert len(fused) == len({(case.name, case.dtype, case.steps) for case in fused}) == 9 * 3 * 2
    grid = len(gpu_layers.PIXELS) * len(gpu_layers.NEURONS)
    assert sum("pixels x" in case.name for case in cases) == 2 * 3 * grid
    assert not any(isinstance(case, FusedCase) for case in all_cases(CPU))
    assert {case.name for case in cases if isinstance(case, StepCase)} == {
        f"{name}, {how}" for name in EXPERIMENTS for how in ("eager", "graph")
    }
    assert len(plan(cases).splitlines()) == len(cases) + 1


def test_the_gate_lets_the_right_results_through():
    assert gpu_gate.complaints(CPU) == []


@pytest.mark.parametrize(
    ("kernel", "spoil"),
    [
        ("lif forward", lambda x: 1 - x),
        ("lif backward", lambda x: x * 1.02),
        ("lif backward", lambda x: x * torch.nan),
        ("lif backward, no warm-up", lambda x: x * 1.02),
        ("stbp backward, sigmoid", lambda x: x * 1.02),
        ("slayer backward", lambda x: -x),
        ("psc", lambda x: x + 0.1),
        ("psc reverse", lambda x: x + 0.1),
        ("pack", lambda x: x ^ 1),
        ("unpack", lambda x: x.flip(0)),
        ("psc", lambda x: x[1:]),
    ],
)
@pytest.mark.usefixtures("short")
def test_the_gate_stops_a_wrong_result(kernel, spoil):
    def answer(case, y, grad):
        right = gpu_gate.answer(case, y, grad)
        return spoil(right) if case.name == kernel else right

    found = gpu_gate.complaints(CPU, answer)
    # bfloat16 hides an error of two per cent in one of the types, no more.
    assert len(found) >= 2
    assert all(line.startswith(kernel) for line in found)


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench", "gpu", *arguments])
    __main__.main()


def test_no_times_for_wrong_results(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "complaints", lambda device: ["psc, fp16, T = 5: off by 30 times what is allowed"])
    monkeypatch.setattr(gpu, "measured", None)
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, *TINY)
    said = capsys.readouterr()
    assert stopped.value.code == 1
    assert said.out == ""
    assert said.err.splitlines()[0].startswith("results disagree with the CPU path")
    assert "psc, fp16, T = 5" in said.err


def test_without_a_device_it_says_what_it_needs(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch)
    assert stopped.value.code == 2
    assert "needs a CUDA or ROCm device" in capsys.readouterr().err


def test_a_dry_run(monkeypatch, capsys):
    command(monkeypatch, "--dry-run", "--only", "lif backward, learnt")
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[-1] == "bytes/neuron-step"
    assert len(lines) == 15


@pytest.mark.usefixtures("short")
def test_the_whole_command(monkeypatch, capsys, tmp_path):
    only = ["--only", "pack", "--json", str(tmp_path / "REPORT"), "--png", str(tmp_path / "FIGURE.png")]
    command(monkeypatch, *TINY, *only)
    out = capsys.readouterr().out
    assert "results agree with the CPU path" in out
    assert "predicted by copy: floor from measured copy" in out
    report = json.loads((tmp_path / "REPORT").read_text())
    assert {row["name"] for row in report["rows"]} == {"pack", "unpack"}
    assert report["failed"] == []
    assert report["machine"]["torch"] == str(torch.__version__)
    assert report["machine"]["commit"]
    for row in report["rows"]:
        assert 0 < row["time"]["p20"] <= row["time"]["p50"] <= row["time"]["p80"]
        assert row["bandwidth"] == pytest.approx(row["bytes"] / row["time"]["p50"])
        assert row["of_prediction"] == pytest.approx(row["time"]["p50"] / row["predicted"])
    assert (tmp_path / "FIGURE.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("short")
def test_a_case_that_fails_costs_no_other(monkeypatch, capsys, tmp_path):
    measured = gpu.measured

    def scarce(case, *rest):
        if case.steps == 8:
            raise torch.OutOfMemoryError("tried to allocate 1 TiB")
        return measured(case, *rest)

    monkeypatch.setattr(gpu, "measured", scarce)
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, *TINY, "--only", "unpack", "--json", str(tmp_path / "report"))
    assert stopped.value.code == 1
    report = json.loads((tmp_path / "report").read_text())
    assert len(report["rows"]) == 3
    assert report["failed"][0] == "unpack, fp32, T = 8: tried to allocate 1 TiB"


def test_layers_and_networks_run():
    layer = LayerCase("3 -> 4C3", torch.bfloat16, lambda: SpikingConv2d(3, 4, 3), (3, 5, 5), 36, steps=2, batch=1)
    for case in (layer, StepCase("fashion-mnist", graph=False, batch=1)):
        row = gpu.measured(case, CPU, events.HostClock(), 1, 1e9)
        assert row.time.p50 > 0
        assert row.bytes is row.predicted is row.bandwidth is row.of_prediction is row.peak is None


def test_the_table():
    time = events.Quantiles(1e-6, 2e-6, 4e-6)
    rows = [
        Row("psc", "fp32", 5, 1000, time, 8000, 1e-6, 5_000_000, "copy"),
        Row("mnist, eager", "fp32", 5, None, time, None, None, None),
    ]
    head, first, second = gpu_report.table(rows, bandwidth=8e9).splitlines()
    assert head.split()[:3] == ["case", "type", "T"]
    assert " ".join(first.split()) == "psc fp32 5 1.0 2.0 4.0 1.0 copy 2.00 4 0.50 400.00 5.0"
    assert second.split()[-5:] == ["-"] * 5


def test_a_table_s_columns():
    assert aligned(["a", "bcd"], [["xy", 1], ["z", 22]]) == "a   bcd\nxy    1\nz    22"
