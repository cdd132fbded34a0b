"""`bench gpu` without a GPU: percentiles, bytes, the check of results, the command and its reports."""

import json
import sys
from time import sleep

import benches  # noqa: F401 - finds bench
import pytest
import torch

from bench import __main__
from bench.common import timing
from bench.common.tables import aligned
from bench.gpu import cases as cases_module
from bench.gpu import command, gate, layers
from bench.gpu import report as report_module
from bench.gpu.cases import KERNELS, FusedCase, KernelCase, LayerCase, StepCase, all_cases, plan
from bench.gpu.prediction import predicted
from bench.gpu.report import Row
from tssl_triton import SpikingConv2d
from tssl_triton.training.presets import EXPERIMENTS

CPU = torch.device("cpu")
TINY = ["--device", "cpu", "--rounds", "2", "--neuron-steps", "64", "--copy-bytes", "65536", "--batch", "1"]


@pytest.fixture(autouse=True)
def _eager(eager):
    """Run eagerly: compiling the loops would take longer than these tests."""


@pytest.fixture
def short(monkeypatch):
    """Fewer time steps and neurons."""
    monkeypatch.setattr(gate, "STEPS", (5,))
    monkeypatch.setattr(gate, "NEURONS", 101)
    monkeypatch.setattr(cases_module, "STEPS", (5, 8))


class FakeClock:
    """Runs take the given seconds, which are known only after `wait`."""

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
        assert self.waited, "read before the device may have finished"
        return end - start


def test_percentiles():
    done = []
    clock = FakeClock([1.0, *(float(second) for second in range(1, 12))])
    time = timing.measure(lambda: done.append("work"), clock, 11, before=lambda: done.append("before"))
    assert (time.p20, time.p50, time.p80) == pytest.approx((3.0, 6.0, 9.0))
    calibration = ["work"] * 3 + ["before"]
    assert done == ["work"] * timing.WARMUP + calibration + ["before", "work"] * 11


def test_device_is_kept_busy_while_the_host_queues():
    def work():
        sleep(0.004)

    # Four flushes of a millisecond last as long as queueing; 1.5 times as many are wanted.
    assert 6 <= timing.repeats(work, lambda: None, FakeClock([1e-3])) < 20
    assert timing.repeats(work, lambda: None, timing.HostClock()) == 1


def test_copy_bandwidth_counts_reading_and_writing():
    assert timing.copy_bandwidth(CPU, FakeClock([0.5] * 4), 4, size=1000) == pytest.approx(4000.0)


def test_host_clock():
    assert 0 < timing.measure(lambda: sum(range(1000)), timing.HostClock(), 5).p50 < 1


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


def test_ratios_of_composed_to_fused_layers():
    rows = [
        Row(layers.pair_name(pixels, 256, fused), "bf16", 5, pixels, timing.Quantiles(t, t, t), None, None, None)
        for pixels, fused, t in ((256, True, 4.0), (256, False, 2.0), (16384, True, 1.0), (16384, False, 1.5))
    ]
    _, few, many = layers.ratios(rows).splitlines()
    assert few.split() == ["bf16", "256", "-", "0.50", "-"]
    assert many.split() == ["bf16", "16384", "-", "1.50*", "-"], "a star where the layer is fused by default"
    assert layers.ratios(rows[:1]) == ""


def test_both_layers_of_a_pair_run():
    for fused in (True, False):
        case = layers.pair(64, 8, torch.bfloat16, fused)
        assert (case.batch, case.neurons) == (1, 64 * 8)
        assert command.measured(case, CPU, timing.HostClock(), 1, 1e9).time.p50 > 0


def test_all_cases():
    cases = all_cases(torch.device("cuda"))
    kernels = [case for case in cases if isinstance(case, KernelCase)]
    assert {case.name for case in kernels} == set(KERNELS)
    assert len(kernels) == 11 * 3 * 5
    fused = [case for case in cases if isinstance(case, FusedCase)]
    assert len(fused) == len({(case.name, case.dtype, case.steps) for case in fused}) == 9 * 3 * 2
    grid = len(layers.PIXELS) * len(layers.NEURONS)
    assert sum("pixels x" in case.name for case in cases) == 2 * 3 * grid
    assert not any(isinstance(case, FusedCase) for case in all_cases(CPU))
    assert {case.name for case in cases if isinstance(case, StepCase)} == {
        f"{name}, {how}" for name in EXPERIMENTS for how in ("eager", "graph")
    }
    assert len(plan(cases).splitlines()) == len(cases) + 1


def test_right_results_pass():
    assert gate.kernel_mismatches(CPU) == []


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
def test_wrong_results_are_reported(kernel, spoil):
    def answer(case, y, grad):
        right = gate.kernel_answer(case, y, grad)
        return spoil(right) if case.name == kernel else right

    found = gate.kernel_mismatches(CPU, answer)
    # An error of 2 % is within the tolerance of bfloat16 only.
    assert len(found) >= 2
    assert all(line.startswith(kernel) for line in found)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench", "gpu", *arguments])
    __main__.main()


def test_no_times_for_wrong_results(monkeypatch, capsys):
    monkeypatch.setattr(command, "mismatches", lambda device: ["psc, fp16, T = 5: error is 30 times the tolerance"])
    monkeypatch.setattr(command, "measured", None)
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *TINY)
    said = capsys.readouterr()
    assert stopped.value.code == 1
    assert said.out == ""
    assert said.err.splitlines()[0].startswith("results disagree with the CPU path")
    assert "psc, fp16, T = 5" in said.err


def test_without_a_device(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch)
    assert stopped.value.code == 2
    assert "needs a CUDA or ROCm device" in capsys.readouterr().err


def test_dry_run(monkeypatch, capsys):
    run(monkeypatch, "--dry-run", "--only", "lif backward, learnt")
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[-1] == "bytes/neuron-step"
    assert len(lines) == 15


@pytest.mark.usefixtures("short")
def test_the_whole_command(monkeypatch, capsys, tmp_path):
    only = ["--only", "pack", "--json", str(tmp_path / "REPORT"), "--png", str(tmp_path / "FIGURE.png")]
    run(monkeypatch, *TINY, *only)
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
def test_a_failing_case_does_not_stop_the_others(monkeypatch, capsys, tmp_path):
    measured = command.measured

    def scarce(case, *rest):
        if case.steps == 8:
            raise torch.OutOfMemoryError("tried to allocate 1 TiB")
        return measured(case, *rest)

    monkeypatch.setattr(command, "measured", scarce)
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *TINY, "--only", "unpack", "--json", str(tmp_path / "report"))
    assert stopped.value.code == 1
    report = json.loads((tmp_path / "report").read_text())
    assert len(report["rows"]) == 3
    assert report["failed"][0] == "unpack, fp32, T = 8: tried to allocate 1 TiB"


def test_layers_and_networks_run():
    layer = LayerCase("3 -> 4C3", torch.bfloat16, lambda: SpikingConv2d(3, 4, 3), (3, 5, 5), 36, steps=2, batch=1)
    for case in (layer, StepCase("fashion-mnist", graph=False, batch=1)):
        row = command.measured(case, CPU, timing.HostClock(), 1, 1e9)
        assert row.time.p50 > 0
        assert row.bytes is row.predicted is row.bandwidth is row.of_prediction is row.peak is None


def test_table():
    time = timing.Quantiles(1e-6, 2e-6, 4e-6)
    rows = [
        Row("psc", "fp32", 5, 1000, time, 8000, 1e-6, 5_000_000, "copy"),
        Row("mnist, eager", "fp32", 5, None, time, None, None, None),
    ]
    head, first, second = report_module.table(rows, bandwidth=8e9).splitlines()
    assert head.split()[:3] == ["case", "type", "T"]
    assert " ".join(first.split()) == "psc fp32 5 1.0 2.0 4.0 1.0 copy 2.00 4 0.50 400.00 5.0"
    assert second.split()[-5:] == ["-"] * 5


def test_alignment():
    assert aligned(["a", "bcd"], [["xy", 1], ["z", 22]]) == "a   bcd\nxy    1\nz    22"
