"""How long a case should take, told before it is measured.

On a device that `bench.static.hardware` knows a kernel's time is the static report's: the kernel is compiled for the
device,
and the largest of bytes, instructions, special functions and matrix products decides, each at its peak rate. On any
other device, and for what cannot be compiled here, it is a floor: the bytes at the bandwidth of the measured copy.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from bench.static.cases import Problem
from bench.static.command import Code, Setting, examine
from bench.static.counting import UnexplainedLoopsError
from bench.static.hardware import Device

from .cases import MODELLED, Case, short

MODEL, COPY = "model", "copy"
LABELS = {
    MODEL: "static model at the device's peak rates, compiled and not timed",
    COPY: "floor from measured copy",
}
"""What a prediction is made of, as tables and reports call it, and in words."""


@dataclass(frozen=True)
class Prediction:
    """Seconds, and which of `LABELS` they come from."""

    seconds: float
    label: str


@dataclass(frozen=True)
class Model:
    """A device, and the machine code of the kernels that have been compiled for it."""

    device: Device
    codes: dict[Setting, Code]

    @classmethod
    def of(cls, cases: Iterable[Case], device: Device, jobs: int | None = None) -> Model:
        """Compile each kernel among ``cases`` once, in ``jobs`` processes; what cannot be read is left out."""
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
        """The modelled time of a kernel; None for anything else."""
        code = self.codes.get(setting_of(case, self.device))
        moved = case.bytes()
        if code is None or moved is None or case.neurons is None:
            return None
        problem = Problem(case.steps, case.neurons, case.dtype)
        count = case.steps * case.neurons
        products = count * MODELLED[case.name].multiply_adds(problem)
        return self.device.seconds(moved, count * code.vector, count * code.special, products, problem.value_bytes)


def setting_of(case: Case, device: Device) -> Setting:
    """What the static report calls a case on a device."""
    return Setting(case.name, case.steps, short(case.dtype), device.architecture.target)


def predicted(case: Case, bandwidth: float, model: Model | None = None) -> Prediction | None:
    """The time of ``case`` on the device of ``model``, else at least, at ``bandwidth`` bytes per second; None where
    nothing is predicted.
    """
    moved = case.bytes()
    if moved is None:
        return None
    seconds = None if model is None else model.seconds(case)
    return Prediction(moved / bandwidth, COPY) if seconds is None else Prediction(seconds, MODEL)
