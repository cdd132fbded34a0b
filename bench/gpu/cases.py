"""The cases of `bench gpu`: single kernels, whole layers, and training steps of the paper's networks.

A case's ``prepare(device)`` returns the work to time, with its tensors on ``device``. ``bytes()`` are those that must
move, from the static report's case of the same name; None where arithmetic is the limit. ``flushed`` says whether the
L2 cache is flushed before each run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tssl_triton.kernels.layout import arithmetic_dtype, word_dtype

from bench.common.graphs import captured
from bench.common.steps import BATCH, TrainingStep
from bench.common.tables import aligned
from bench.static.cases import FUSED, OURS
from bench.static.problem import DTYPES, Problem, dtype_name
from tssl_triton import LIFParameters
from tssl_triton.operators import write_settings
from tssl_triton.parameters import CONSTANTS
from tssl_triton.rules import DEFAULT, SLAYER, STBP, Rule
from tssl_triton.training.presets import EXPERIMENTS

from .layers import LAYERS, LayerCase, pairs

STEPS = (1, 5, 8, 32, 100)
LEARNT = ("lif forward, learnt constants", "lif backward, learnt constants")
VARIANTS: dict[str, tuple[LIFParameters, Rule]] = {
    "lif backward, no warm-up": (LIFParameters(warmup="off"), DEFAULT),
    "stbp backward, sigmoid": (LIFParameters(), STBP("sigmoid")),
    "slayer backward": (LIFParameters(), SLAYER()),
}
"""Backward kernels of other settings than the defaults: parameters, and learning rule."""

FILTERS = {"psc": False, "psc reverse": True}
"""The synaptic filter; True if it runs backward in time."""

KERNELS = ("lif forward", "lif backward", *VARIANTS, *LEARNT, *FILTERS, "pack", "unpack")
NEURON_STEPS = 1 << 26
"""Size of a kernel's case, T times N: 256 MB per float32 tensor, several times any L2 cache."""

FUSED_STEPS = (5, 32)
MODELLED = {case.name: case for case in (*OURS, *FUSED)}
"""The static report's cases of this package, by name."""

Work = Callable[[], object]


@dataclass(frozen=True)
class KernelCase:
    """One launch of one operator, on tensors ``(T, N)``."""

    name: str
    dtype: torch.dtype
    steps: int
    neurons: int
    flushed: bool = True

    def operands(self, y: Tensor, grad: Tensor) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The operator and its arguments, for weighted input and gradient ``(T, N)``; spikes are ``y > 1``."""
        operators = torch.ops.tssl_triton
        if "forward" in self.name or "backward" in self.name:
            params, rule = VARIANTS.get(self.name, (LIFParameters(), DEFAULT))
            neuron, constants = write_settings(params, rule), None
            if self.name in LEARNT:
                values = [getattr(params, name) for name in CONSTANTS]
                rows = torch.tensor(values, dtype=arithmetic_dtype(y.dtype), device=y.device)[:, None]
                constants = rows.expand(3, self.neurons).contiguous()
            arguments = y, constants, None, neuron, self.steps, True, True, False, None
            if "forward" in self.name:
                return operators.lif_forward, arguments
            _, words, checkpoints, _ = operators.lif_forward(*arguments)
            return operators.lif_backward, (grad, y, constants, words, checkpoints, None, neuron, True)
        spikes = (y > 1).to(y.dtype)
        if self.name in FILTERS:
            return operators.psc_filter, (spikes, None, 3.0, FILTERS[self.name], False)
        if self.name == "pack":
            return operators.pack, (spikes, word_dtype(self.steps))
        words = operators.pack(spikes, word_dtype(self.steps))
        return operators.unpack, (words, self.steps, y.dtype)

    def bytes(self) -> int:
        return MODELLED[self.name].bytes(Problem(self.steps, self.neurons, self.dtype))

    def prepare(self, device: torch.device) -> Work:
        shape = (self.steps, self.neurons)
        y = torch.randn(shape, dtype=self.dtype, device=device).mul_(1.5)
        operator, arguments = self.operands(y, torch.randn(shape, dtype=self.dtype, device=device))
        return lambda: operator(*arguments)


@dataclass(frozen=True)
class FusedCase:
    """One launch of a fused layer's kernel, of `bench.static.cases.FUSED`, on random numbers.

    ``neurons`` also determines the layer's width.
    """

    name: str
    dtype: torch.dtype
    steps: int
    neurons: int
    flushed: bool = True

    def bytes(self) -> int:
        return MODELLED[self.name].bytes(Problem(self.steps, self.neurons, self.dtype))

    def prepare(self, device: torch.device) -> Work:
        launch = MODELLED[self.name].launch(Problem(self.steps, self.neurons, self.dtype, str(device)))
        tensors = [value for value in launch.arguments.values() if isinstance(value, Tensor)]
        for tensor in tensors:
            # On zeros a matrix unit draws less power and keeps an unrealistically high clock.
            tensor.normal_() if tensor.is_floating_point() else tensor.random_()
        return lambda: launch.run(tensors[0])


@dataclass(frozen=True)
class StepCase:
    """A training step of one of the paper's networks, eager or replayed as one CUDA graph."""

    network: str
    graph: bool
    batch: int = BATCH
    dtype: torch.dtype = torch.float32
    neurons: None = None
    flushed: bool = False

    @property
    def name(self) -> str:
        return f"{self.network}, {'graph' if self.graph else 'eager'}"

    @property
    def steps(self) -> int:
        return EXPERIMENTS[self.network].steps

    def bytes(self) -> None:
        return None

    def prepare(self, device: torch.device) -> Work:
        step = TrainingStep(self.network, self.batch, device)
        return captured(step) if self.graph else step


Case = KernelCase | FusedCase | LayerCase | StepCase


def all_cases(device: torch.device, neuron_steps: int = NEURON_STEPS, batch: int = BATCH) -> list[Case]:
    """Every case; fused layers and CUDA graphs only on a GPU."""
    cases: list[Case] = []
    for name in KERNELS:
        for dtype in DTYPES.values():
            for steps in STEPS:
                # Rows of whole cache lines: neurons are batch times features, seldom an odd number.
                cases.append(KernelCase(name, dtype, steps, max(neuron_steps // steps // 1024 * 1024, 1024)))
    for dtype in DTYPES.values():
        for name, build, features, neurons in LAYERS:
            cases.append(LayerCase(name, dtype, build, features, batch * neurons, batch=batch))
    if device.type == "cuda":
        for fused in FUSED:
            for dtype in DTYPES.values():
                cases.extend(FusedCase(fused.name, dtype, steps, fused.neurons) for steps in FUSED_STEPS)
        for dtype in DTYPES.values():
            cases.extend(pairs(dtype))
    for network in EXPERIMENTS:
        cases.append(StepCase(network, False, batch))
        if device.type == "cuda":
            cases.append(StepCase(network, True, batch))
    return cases


def plan(cases: list[Case]) -> str:
    """A table of the cases and the bytes that each must move."""
    rows = []
    for case in cases:
        moved = case.bytes()
        per_step = "-" if moved is None or not case.neurons else f"{moved / case.neurons / case.steps:.2f}"
        size = "-" if moved is None else f"{moved:,}"
        rows.append([case.name, dtype_name(case.dtype), case.steps, case.neurons or "-", size, per_step])
    return aligned(["case", "type", "T", "neurons", "bytes", "bytes/neuron-step"], rows, left=2)
