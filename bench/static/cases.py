"""The kernels of the static report: this package's in `OURS` and `FUSED`, and the peers'.

A case states how a kernel is launched and what its machine code does not show: how often each loop of the source runs,
and how many bytes must move at least.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tssl_triton.kernels import neuron, packing, surrogate, synapse
from tssl_triton.kernels.fused import spike_weighted_launch
from tssl_triton.kernels.geometry import Geometry
from tssl_triton.kernels.layout import WINDOW, WORD, cdiv, checkpoint_rows, word_count, word_dtype
from tssl_triton.kernels.plan import Launch, plan_weight_gradient
from tssl_triton.kernels.weight_gradient import weight_gradient_launch

from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import SLAYER, STBP, Rule

from . import peers
from .counting import Loop
from .problem import Case, Problem


def forward_launch(p: Problem, learnt: bool = False) -> Launch:
    return neuron.lif_forward_launch(
        p.tensor(p.steps), p.tensor(p.steps), p.words(), p.state(checkpoint_rows(p.steps)), None, None,
        params=LIFParameters(), synapse=True, constants=p.state(3) + 2.0 if learnt else None,
    )  # fmt: skip


def backward_launch(p: Problem, learnt: bool = False, **options: Any) -> Launch:
    return neuron.lif_backward_launch(
        p.tensor(p.steps), p.tensor(p.steps), p.words(), p.state(checkpoint_rows(p.steps)), None, p.tensor(p.steps),
        params=LIFParameters(**options), synapse=True,
        constants=p.state(3) + 2.0 if learnt else None, grad_constants=p.state(3) if learnt else None,
    )  # fmt: skip


def surrogate_launch(p: Problem, rule: Rule, **options: Any) -> Launch:
    gradient = rule.surrogate_gradient
    assert gradient is not None
    return surrogate.surrogate_backward_launch(
        p.tensor(p.steps), p.tensor(p.steps), p.words(), p.state(checkpoint_rows(p.steps)), None, p.tensor(p.steps),
        params=LIFParameters(**options), rule=gradient, synapse=True,
    )  # fmt: skip


def psc_launch(p: Problem, reverse: bool) -> Launch:
    return synapse.psc_launch(p.tensor(p.steps), p.tensor(p.steps), None, None, tau_syn=3.0, reverse=reverse)


def window_loop(values: int) -> Callable[[Problem, Launch], tuple[tuple[Loop, ...], ...]]:
    """The loop over all windows but one. A window moves ``values`` values per step and one checkpoint."""

    def loops(p: Problem, launch: Launch) -> tuple[tuple[Loop, ...], ...]:
        windows = cdiv(p.steps, WINDOW) - 1
        size = launch.arguments["BLOCK"] * (WINDOW * values * p.value_bytes + 12)
        return ((Loop(windows, size),),) if windows else ((),)

    return loops


def word_loops(p: Problem, launch: Launch) -> tuple[tuple[Loop, ...], ...]:
    """A program handles the steps of one word; the last word may be shorter."""
    steps = [min(WORD, p.steps - first) for first in range(0, p.steps, WORD)]
    return tuple((Loop(trips, launch.arguments["BLOCK"] * p.value_bytes),) for trips in steps)


def bytes_moved(values: int, constants: int = 0) -> Callable[[Problem], float]:
    """Bytes per neuron-step of ``values`` values, a spike's bit, and ``constants`` float32 numbers per neuron."""
    return lambda p: values * p.value_bytes + p.word_bytes + 4 * constants / p.steps


def saved_by_lif(p: Problem) -> float:
    """The weighted input, packed spikes, and checkpoints."""
    return p.value_bytes + p.word_bytes + p.checkpoint_bytes


OURS = (
    Case("lif forward", forward_launch, bytes_moved(2), window_loop(2), saved=saved_by_lif),
    Case("lif backward", backward_launch, bytes_moved(3), window_loop(3)),
    Case("lif backward, no warm-up", partial(backward_launch, warmup="off"), bytes_moved(3), window_loop(3)),
    Case("lif forward, learnt constants", partial(forward_launch, learnt=True), bytes_moved(2, 3), window_loop(2)),
    Case("lif backward, learnt constants", partial(backward_launch, learnt=True), bytes_moved(3, 6), window_loop(3)),
    *(
        Case(
            name,
            partial(surrogate_launch, rule=rule),
            # Backward reads spikes for the reset of the next step; a single step has none.
            compulsory=lambda p: 3 * p.value_bytes + (p.word_bytes if p.steps > 1 else 0),
            loops=window_loop(3),
        )
        for name, rule in (
            ("stbp backward", STBP()),
            ("stbp backward, sigmoid", STBP("sigmoid")),
            ("slayer backward", SLAYER()),
        )
    ),
    *(
        Case(
            name,
            partial(psc_launch, reverse=reverse),
            compulsory=lambda p: 2 * p.value_bytes,
            loops=lambda p, launch: ((Loop(p.steps, launch.arguments["BLOCK"] * 2 * p.value_bytes),),),
        )
        for name, reverse in (("psc", False), ("psc reverse", True))
    ),
    Case("pack", lambda p: packing.pack_launch(p.tensor(p.steps), p.words()), bytes_moved(1), word_loops),
    Case("unpack", lambda p: packing.unpack_launch(p.words(), p.tensor(p.steps)), bytes_moved(1), word_loops),
)


COUNTED = ("sm_80", "sm_90", "gfx942")
"""Targets of the fused layers' figures. On sm_100 a program waits for its matrix unit in loops that
`bench.static.counting` cannot tell from the source's; that nothing spills there is tested all the same.
"""


@dataclass(frozen=True)
class Layer:
    """A fused ``kernel`` x ``kernel`` convolution on images of ``size`` x ``size``; both 1 if fully connected.

    A neuron-step is one of the layer's output. The layer has as many channels in as out, a quarter of the number of
    pixels: 512 and 2,048 in the problem that is compiled.
    """

    kernel: int
    size: int

    def channels(self, p: Problem) -> int:
        """Input channels, and as many output channels."""
        return 1 << (int(math.log2(p.neurons)) // 2 - 1)

    def images(self, p: Problem) -> int:
        """Samples in a batch."""
        return p.neurons // self.channels(p) // self.size**2

    def geometry(self) -> Geometry:
        return Geometry.of(self.size, self.size, (self.kernel,) * 2, (1, 1), (self.kernel // 2,) * 2)

    def inputs(self, p: Problem) -> torch.Tensor:
        """Packed spikes, channels last."""
        shape = (word_count(p.steps), self.images(p), self.size, self.size, self.channels(p))
        return torch.zeros(shape, dtype=word_dtype(p.steps), device=p.device).permute(0, 1, 4, 2, 3)

    def weight(self, p: Problem) -> torch.Tensor:
        shape = (self.channels(p), self.kernel, self.kernel, self.channels(p))
        return torch.zeros(shape, dtype=p.dtype, device=p.device).permute(0, 3, 1, 2)

    def rows(self, p: Problem, rows: int, dtype: torch.dtype) -> torch.Tensor:
        """``(rows, M, N)``."""
        return torch.zeros((rows, p.neurons // self.channels(p), self.channels(p)), dtype=dtype, device=p.device)

    def forward(self, p: Problem, save: bool) -> Launch:
        """Forward pass; ``save`` stores y for backward, as in training without recomputing."""
        y = self.rows(p, p.steps, p.dtype) if save else None
        checkpoints = p.state(checkpoint_rows(p.steps)) if save else None
        return spike_weighted_launch(
            self.inputs(p), self.weight(p), None, self.rows(p, word_count(p.steps), word_dtype(p.steps)), None, y,
            checkpoints, None, None, steps=p.steps, geometry=self.geometry(), params=LIFParameters(),
        )  # fmt: skip

    def weight_gradient(self, p: Problem) -> Launch:
        weight = self.weight(p)
        plan = plan_weight_gradient(p.neurons // self.channels(p), weight, p.dtype)
        sums = torch.empty_strided(
            (plan.shares, *weight.shape), (weight.numel(), *weight.stride()), dtype=torch.float32, device=p.device
        )
        return weight_gradient_launch(
            self.rows(p, p.steps, p.dtype), self.inputs(p), sums,
            steps=p.steps, geometry=self.geometry(), tiles=plan.tiles,
        )  # fmt: skip

    def forward_loops(self, p: Problem, launch: Launch) -> tuple[tuple[Loop, ...], ...]:
        """Over steps; inside, over kernel positions and blocks of channels."""
        chunks = self.kernel**2 * cdiv(self.channels(p), launch.arguments["BLOCK_K"])
        return ((Loop(p.steps, 0, (Loop(chunks, 0),)),),)

    def gradient_loops(self, p: Problem, launch: Launch) -> tuple[tuple[Loop, ...], ...]:
        """Over blocks of a share's pixels; inside, over words; inside, over the mean number of steps in a word."""
        blocks = launch.arguments["share"] // launch.arguments["BLOCK_M"]
        words = cdiv(p.steps, WORD)
        return ((Loop(blocks, 0, (Loop(words, 0, (Loop(p.steps // words, 0),)),)),),)

    def multiply_adds(self, p: Problem) -> float:
        """Multiply-adds of the matrix units per neuron-step."""
        return self.kernel**2 * self.channels(Problem(p.steps, 1 << 20, p.dtype))


def fused_cases(name: str, layer: Layer) -> tuple[Case, ...]:
    """Forward with y stored, forward without, and the weight gradient."""
    case = partial(Case, multiply_adds=layer.multiply_adds, few_neurons=1024, targets=COUNTED)
    forward = partial(case, loops=layer.forward_loops, shared=("weight_ptr",))
    return (
        forward(
            f"{name} forward",
            partial(layer.forward, save=True),
            compulsory=lambda p: p.value_bytes + 2 * p.word_bytes,
            saved=saved_by_lif,
        ),
        forward(
            f"{name} forward, recompute",
            partial(layer.forward, save=False),
            compulsory=lambda p: 2 * p.word_bytes,
            saved=lambda p: p.word_bytes,
        ),
        case(
            f"{name} weight gradient",
            layer.weight_gradient,
            compulsory=bytes_moved(1),
            loops=layer.gradient_loops,
            shared=("partial_ptr",),
        ),
    )


FUSED = (
    *fused_cases("spike_linear", Layer(kernel=1, size=1)),
    *fused_cases("spike_conv2d 3x3", Layer(kernel=3, size=8)),
    *fused_cases("spike_conv2d 5x5", Layer(kernel=5, size=8)),
)


def all_cases() -> dict[str, Case]:
    """Cases of this package and of installed peers, by name."""
    return {case.name: case for case in (*OURS, *FUSED, *peers.load()[0])}
