"""Predictions of `bench gpu`: by the static model on a known device, by the measured copy elsewhere."""

import json
import sys

import benches  # noqa: F401 - finds bench
import pytest
import torch

from bench import __main__
from bench.gpu import cases, command
from bench.gpu import report as report_module
from bench.gpu.cases import FusedCase, KernelCase, StepCase
from bench.gpu.prediction import COPY, MODEL, Model, predicted, setting_of
from bench.static.examined import Code
from bench.static.hardware import A100, B200, H100, H200, MI300X, device_named


def test_bytes_of_fused_layers():
    # 1,024 neurons: 16 channels in and out, 64 pixels; the weights are 16 x 16 x 9 values, or as many float32 sums.
    rows, weights = 33 * 1024, 16 * 16 * 9
    bits, checkpoints = 2 * 4 * 1024, 4 * 3 * 4 * 1024
    names = ("forward", "forward, recompute", "weight gradient")
    kept, recomputing, gradient = (FusedCase(f"spike_conv2d 3x3 {x}", torch.bfloat16, 33, 1024).bytes() for x in names)
    assert kept == 2 * rows + 2 * bits + checkpoints + 2 * weights
    assert recomputing == 2 * bits + 2 * weights
    assert gradient == 2 * rows + bits + 4 * weights


def code(vector, special=0.0):
    return Code(32, 0, 0, 4, 1.0, {}, {}, vector, vector, special, 0.0, 1024)


@pytest.mark.parametrize(
    ("name", "figures", "seconds"),
    [
        # The limit is bytes, instructions, special functions, or products of 25 x 512 inputs.
        ("psc", code(1.0), lambda case: H100.byte_seconds(case.bytes())),
        ("psc", code(1e6), lambda case: H100.issue_seconds(1e6 * case.neurons * 5)),
        ("psc", code(1.0, 1e6), lambda case: H100.special_seconds(1e6 * case.neurons * 5)),
        ("spike_conv2d 5x5 forward", code(1.0), lambda case: H100.matrix_seconds(25 * 512 * case.neurons * 5, 2)),
    ],
)
def test_model_predicts_on_a_known_device(name, figures, seconds):
    case = (FusedCase if "spike" in name else KernelCase)(name, torch.float16, 5, 1 << 20)
    model = Model(H100, {setting_of(case, H100): figures})
    prediction = predicted(case, 1e9, model)
    assert prediction.label == MODEL
    assert prediction.seconds == pytest.approx(seconds(case))


def test_measured_copy_predicts_elsewhere():
    case = KernelCase("psc", torch.float16, 5, 1024)
    for model in (None, Model(H100, {})):
        prediction = predicted(case, 1e9, model)
        assert prediction.label == COPY
        assert prediction.seconds == case.bytes() / 1e9
    assert predicted(StepCase("mnist", graph=False), 1e9, Model(H100, {})) is None


def test_kernels_are_compiled_for_the_device():
    packs = [KernelCase("pack", torch.float16, 5, neurons) for neurons in (1024, 2048)]
    model = Model.of([*packs, StepCase("mnist", graph=False)], H100, jobs=1)
    assert [(setting.case, setting.target) for setting in model.codes] == [("pack", "sm_90")]
    assert predicted(packs[0], 1.0, model).label == MODEL


@pytest.mark.parametrize(
    ("name", "multiprocessors", "device"),
    [
        ("NVIDIA H100 80GB HBM3", 132, H100),
        ("NVIDIA A100-SXM4-80GB", 108, A100),
        ("NVIDIA H200", 132, H200),
        ("NVIDIA B200", 148, B200),
        ("AMD Instinct MI300X", 304, MI300X),
        ("NVIDIA H100 80GB HBM3", 60, None),
        ("NVIDIA H100 PCIe", 114, None),
        ("NVIDIA A100-SXM4-40GB", 108, None),
        ("NVIDIA GH200 480GB", 132, None),
        ("Tesla V100", 80, None),
    ],
)
def test_devices_by_their_drivers_names(name, multiprocessors, device):
    assert device_named(name, multiprocessors) is device


def test_command_on_a_known_device(monkeypatch, capsys, tmp_path):
    def compiled(cases, device):
        return Model(device, {setting_of(case, device): code(9.0) for case in cases})

    machine = report_module.machine
    about = {"name": "NVIDIA H100 80GB HBM3", "multiprocessors": 132}
    monkeypatch.setattr(report_module, "machine", lambda device: machine(device) | about)
    monkeypatch.setattr(Model, "of", compiled)
    monkeypatch.setattr(command, "mismatches", lambda device: [])
    monkeypatch.setattr(cases, "STEPS", (5,))
    sizes = ["--rounds", "2", "--neuron-steps", "64", "--copy-bytes", "65536"]
    report = tmp_path / "report"
    options = ["--device", "cpu", *sizes, "--only", "unpack", "--json", str(report)]
    monkeypatch.setattr(sys, "argv", ["bench", "gpu", *options])
    monkeypatch.setenv("TSSL_CPU", "eager")
    __main__.main()
    assert "predicted by model: static model at the device's peak rates" in capsys.readouterr().out
    written = json.loads(report.read_text())
    assert {row["basis"] for row in written["rows"]} == {"model"}
    assert "model" in written["prediction"]
