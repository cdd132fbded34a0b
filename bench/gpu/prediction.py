"""Predicted time of a case.

On a device listed in `bench.static.hardware` a kernel's time is the static report's: the kernel is compiled, and the
longest of bytes, instructions, special functions and matrix products counts, each at its peak rate. On other devices,
and where compilation fails, it is a lower bound: the bytes at the bandwidth of the measured copy.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from bench.static.counting import UnexplainedLoopsError
from bench.static.examined import Code, Setting, examine
from bench.static.hardware import Device
from bench.static.problem import Problem, dtype_name

from .cases import MODELLED, Case

MODEL, COPY = "model", "copy"
LABELS = {
    MODEL: "static model at the device's peak rates, compiled and not timed",
    COPY: "floor from measured copy",
}
"""Sources of a prediction: their names in tables and reports, and descriptions."""


@dataclass(frozen=True)
class Prediction:
    """Seconds, and their source, one of `LABELS`."""

    seconds: float
    label: str


@dataclass(frozen=True)
class Model:
    """A device and the code of kernels compiled for it."""

    device: Device
    codes: dict[Setting, Code]

    @classmethod
    def of(cls, cases: Iterable[Case], device: Device, jobs: int | None = None) -> Model:
        """Compile the kernels among ``cases``, in ``jobs`` processes; kernels that cannot be analysed are left out."""
        settings = [setting_of(case, device) for case in cases if case.name in MODELLED]
        codes = {}
        with ProcessPoolExecutor(jobs or os.cpu_count(), mp_context=get_context("spawn")) as pool:
            pending = {setting: pool.submit(examine, setting) for setting in dict.fromkeys(settings)}
            for number, (setting, future) in enumerate(pending.items(), 1):
                print(f"compiling {number}/{len(pending)}: {setting}", file=sys.stderr)
                try:
                    codes[setting] = future.result()
                except (UnexplainedLoopsError, OSError, subprocess.SubprocessError) as error:
                    print(f"not modelled: {setting}: {error}", file=sys.stderr)
        return cls(device, codes)

    def seconds(self, case: Case) -> float | None:
        """The modelled time of a kernel; None for other cases."""
        code = self.codes.get(setting_of(case, self.device))
        moved = case.bytes()
        if code is None or moved is None or case.neurons is None:
            return None
        problem = Problem(case.steps, case.neurons, case.dtype)
        count = case.steps * case.neurons
        products = count * MODELLED[case.name].multiply_adds(problem)
        return self.device.seconds(moved, count * code.vector, count * code.special, products, problem.value_bytes)


def setting_of(case: Case, device: Device) -> Setting:
    """The static report's setting for a case on a device."""
    return Setting(case.name, case.steps, dtype_name(case.dtype), device.architecture.target)


def predicted(case: Case, bandwidth: float, model: Model | None = None) -> Prediction | None:
    """The time of ``case`` by ``model``, or a lower bound at ``bandwidth`` bytes per second; None without bytes."""
    moved = case.bytes()
    if moved is None:
        return None
    seconds = None if model is None else model.seconds(case)
    return Prediction(moved / bandwidth, COPY) if seconds is None else Prediction(seconds, MODEL)
