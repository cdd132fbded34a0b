"""What `bench gpu` measures: each kernel by itself, whole layers, and training steps of the paper's networks.

What a kernel must move is asked of the static report's case of the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from tssl_triton.kernels.layout import arithmetic_dtype, word_dtype

from bench.common.graphs import captured
from bench.common.steps import BATCH, TrainingStep
from bench.common.tables import aligned
from bench.static.cases import OURS, Problem
from bench.static.fused_cases import FUSED
from tssl_triton import LIFParameters
from tssl_triton.functional import constants
from tssl_triton.rules import DEFAULT, SLAYER, STBP, Rule
from tssl_triton.training.presets import EXPERIMENTS

from .layers import LAYERS, LayerCase, pairs

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
STEPS = (1, 5, 8, 32, 100)
LEARNT = ("lif forward, learnt constants", "lif backward, learnt constants")
VARIANTS: dict[str, tuple[LIFParameters, Rule]] = {
    "lif backward, no warm-up": (LIFParameters(warmup="off"), DEFAULT),
    "stbp backward, sigmoid": (LIFParameters(), STBP("sigmoid")),
    "slayer backward": (LIFParameters(), SLAYER()),
}
"""Backward kernels of other settings than the defaults: parameters and learning rule."""

FILTERS = {"psc": False, "psc reverse": True}
"""The synaptic filter, and whether it runs backwards in time."""

KERNELS = ("lif forward", "lif backward", *VARIANTS, *LEARNT, *FILTERS, "pack", "unpack")
NEURON_STEPS = 1 << 26
"""Neuron-steps of a kernel's case: 256 MB a tensor in float32, several times any L2 cache."""

FUSED_STEPS = (5, 32)
MODELLED = {case.name: case for case in (*OURS, *FUSED)}
"""The static report's cases of this package's kernels."""

Work = Callable[[], object]


class Case(Protocol):
    """One thing to measure."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def steps(self) -> int: ...
    @property
    def neurons(self) -> int | None: ...
    @property
    def flushed(self) -> bool:
        """Whether caches are emptied before each run; a training step follows the one before it as it would."""
        ...

    def bytes(self) -> int | None:
        """Bytes that must move; None where arithmetic, not memory, decides."""
        ...

    def prepare(self, device: torch.device) -> Work:
        """The work to be timed, with everything it needs on ``device``."""
        ...


@dataclass(frozen=True)
class KernelCase:
    """One launch of one operator, on tensors ``(T, N)``."""

    name: str
    dtype: torch.dtype
    steps: int
    neurons: int
    flushed: bool = True

    def operands(self, y: Tensor, grad: Tensor) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The operator and its arguments, made of a weighted input and a gradient ``(T, N)``; spikes are ``y > 1``."""
        operators = torch.ops.tssl_triton
        if "forward" in self.name or "backward" in self.name:
            params, rule = VARIANTS.get(self.name, (LIFParameters(), DEFAULT))
            learnt, settings = self.name in LEARNT, constants(params, rule)
            inputs: tuple[Tensor, ...] = (y,)
            if learnt:  # the numbers among the settings are a tensor beside y
                rows = torch.tensor(settings[:3], dtype=arithmetic_dtype(y.dtype), device=y.device)[:, None]
                settings, inputs = settings[3:], (y, rows.expand(3, self.neurons).contiguous())
            forward = operators.learnt_lif_forward if learnt else operators.lif_forward
            arguments = *inputs, None, self.steps, True, True, False, *settings
            if "forward" in self.name:
                return forward, arguments
            _, words, checkpoints, _ = forward(*arguments)
            backward = operators.learnt_lif_backward if learnt else operators.lif_backward
            return backward, (grad, *inputs, words, checkpoints, None, True, *settings)
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
    """One launch of a fused layer's kernel: a case of `bench.static.fused_cases`, on random spikes and numbers.

    ``neurons`` decides the layer's width too; by default it is the problem that the static report compiles.
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
            # Of all zeros a matrix unit draws less power, and keeps a higher clock than it would at work.
            tensor.normal_() if tensor.is_floating_point() else tensor.random_()
        return lambda: launch.run(tensors[0])


@dataclass(frozen=True)
class StepCase:
    """A training step of one of the paper's networks, by eager PyTorch or replayed as one CUDA graph."""

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


def all_cases(device: torch.device, neuron_steps: int = NEURON_STEPS, batch: int = BATCH) -> list[Case]:
    """Every case; fused layers only for a device that has their kernels, and graphs for one that can capture them."""
    cases: list[Case] = []
    for name in KERNELS:
        for dtype in DTYPES:
            for steps in STEPS:
                # Rows of whole cache lines: a layer's neurons are batch times features, seldom odd.
                cases.append(KernelCase(name, dtype, steps, max(neuron_steps // steps // 1024 * 1024, 1024)))
    for dtype in DTYPES:
        for name, build, features, neurons in LAYERS:
            cases.append(LayerCase(name, dtype, build, features, batch * neurons, batch=batch))
    if device.type == "cuda":
        for fused in FUSED:
            for dtype in DTYPES:
                cases.extend(FusedCase(fused.name, dtype, steps, fused.neurons) for steps in FUSED_STEPS)
        for dtype in DTYPES:
            cases.extend(pairs(dtype))
    for network in EXPERIMENTS:
        cases.append(StepCase(network, False, batch))
        if device.type == "cuda":
            cases.append(StepCase(network, True, batch))
    return cases


def short(dtype: torch.dtype) -> str:
    """``fp32``, ``fp16`` or ``bf16``."""
    return {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]


def plan(cases: list[Case]) -> str:
    """The cases with the bytes that each must move."""
    rows = []
    for case in cases:
        moved = case.bytes()
        per_step = "-" if moved is None or not case.neurons else f"{moved / case.neurons / case.steps:.2f}"
        size = "-" if moved is None else f"{moved:,}"
        rows.append([case.name, short(case.dtype), case.steps, case.neurons or "-", size, per_step])
    return aligned(["case", "type", "T", "neurons", "bytes", "bytes/neuron-step"], rows, left=2)
