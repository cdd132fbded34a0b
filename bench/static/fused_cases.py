"""The fused layers in the static report: matrix products of packed spikes, with neurons behind them.

A neuron-step is one of the layer's output. The layers are square, as many channels in as out, and a quarter as many as
pixels: 512 and 2,048 for the problem that is compiled. What all samples share, the weights and the sums of their
gradient, is left out of the bytes per neuron-step, which a larger batch would make as small as one likes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from tssl_triton.kernels.fused import spike_weighted_launch
from tssl_triton.kernels.geometry import Geometry
from tssl_triton.kernels.layout import WORD, cdiv, checkpoint_rows, word_count, word_dtype
from tssl_triton.kernels.plan import Launch, plan_weight_gradient
from tssl_triton.kernels.weight_gradient import weight_gradient_launch

from tssl_triton.parameters import LIFParameters

from .cases import Case, Problem
from .counting import Loop

COUNTED = ("sm_80", "sm_90", "gfx942")
"""On sm_100 a program waits for its matrix unit in loops of its own, which the rules of `bench.static.counting`
cannot tell
from those of the source; that nothing spills there is tested all the same."""


@dataclass(frozen=True)
class Layer:
    """A ``kernel`` x ``kernel`` convolution of images of ``size`` x ``size``; 1 and 1 if fully connected."""

    kernel: int
    size: int

    def channels(self, p: Problem) -> int:
        """Channels in and out."""
        return 1 << (int(math.log2(p.neurons)) // 2 - 1)

    def images(self, p: Problem) -> int:
        """Samples in a batch."""
        return p.neurons // self.channels(p) // self.size**2

    def geometry(self) -> Geometry:
        return Geometry.of(self.size, self.size, (self.kernel,) * 2, (1, 1), (self.kernel // 2,) * 2)

    def inputs(self, p: Problem) -> torch.Tensor:
        """Packed spikes, channels_last."""
        shape = (word_count(p.steps), self.images(p), self.size, self.size, self.channels(p))
        return torch.zeros(shape, dtype=word_dtype(p.steps), device=p.device).permute(0, 1, 4, 2, 3)

    def weight(self, p: Problem) -> torch.Tensor:
        shape = (self.channels(p), self.kernel, self.kernel, self.channels(p))
        return torch.zeros(shape, dtype=p.dtype, device=p.device).permute(0, 3, 1, 2)

    def rows(self, p: Problem, rows: int, dtype: torch.dtype) -> torch.Tensor:
        """``(rows, M, N)``."""
        return torch.zeros((rows, p.neurons // self.channels(p), self.channels(p)), dtype=dtype, device=p.device)

    def forward(self, p: Problem, save: bool) -> Launch:
        """Forward of training, which writes y where backward is to find it, or of recomputing and inference."""
        return spike_weighted_launch(
            self.inputs(p),
            self.weight(p),
            None,
            self.rows(p, word_count(p.steps), word_dtype(p.steps)),
            None,
            self.rows(p, p.steps, p.dtype) if save else None,
            p.state(checkpoint_rows(p.steps)) if save else None,
            None,
            None,
            steps=p.steps,
            geometry=self.geometry(),
            params=LIFParameters(),
        )

    def weight_gradient(self, p: Problem) -> Launch:
        weight = self.weight(p)
        plan = plan_weight_gradient(p.neurons // self.channels(p), weight, p.dtype)
        partial = torch.empty_strided(
            (plan.shares, *weight.shape), (weight.numel(), *weight.stride()), dtype=torch.float32, device=p.device
        )
        e = self.rows(p, p.steps, p.dtype)
        return weight_gradient_launch(
            e, self.inputs(p), partial, steps=p.steps, geometry=self.geometry(), tiles=plan.tiles
        )

    def forward_loops(self, p: Problem, launch: Launch) -> tuple[tuple[Loop, ...], ...]:
        """Over steps, and in each over positions of the kernel and blocks of channels."""
        chunks = self.kernel**2 * cdiv(self.channels(p), launch.arguments["BLOCK_K"])
        return ((Loop(p.steps, 0, (Loop(chunks, 0),)),),)

    def gradient_loops(self, p: Problem, launch: Launch) -> tuple[tuple[Loop, ...], ...]:
        """Over blocks of a share's pixels, in each over words, in each over the steps of a word on average."""
        blocks = launch.arguments["share"] // launch.arguments["BLOCK_M"]
        words = cdiv(p.steps, WORD)
        return ((Loop(blocks, 0, (Loop(words, 0, (Loop(p.steps // words, 0),)),)),),)

    def multiply_adds(self, p: Problem) -> float:
        """Of the matrix units per neuron-step."""
        return self.kernel**2 * self.channels(Problem(p.steps, 1 << 20, p.dtype))


def cases(name: str, layer: Layer) -> tuple[Case, ...]:
    """Forward that keeps y, forward that does not, and the weight gradient."""
    return (
        Case(
            f"{name} forward",
            lambda p: layer.forward(p, save=True),
            compulsory=lambda p: p.value_bytes + 2 * p.word_bytes,
            loops=layer.forward_loops,
            saved=lambda p: p.value_bytes + p.word_bytes + p.checkpoint_bytes,
            multiply_adds=layer.multiply_adds,
            few_neurons=1024,
            shared=("weight_ptr",),
            targets=COUNTED,
        ),
        Case(
            f"{name} forward, recompute",
            lambda p: layer.forward(p, save=False),
            compulsory=lambda p: 2 * p.word_bytes,
            loops=layer.forward_loops,
            saved=lambda p: p.word_bytes,
            multiply_adds=layer.multiply_adds,
            few_neurons=1024,
            shared=("weight_ptr",),
            targets=COUNTED,
        ),
        Case(
            f"{name} weight gradient",
            layer.weight_gradient,
            compulsory=lambda p: p.value_bytes + p.word_bytes,
            loops=layer.gradient_loops,
            multiply_adds=layer.multiply_adds,
            few_neurons=1024,
            shared=("partial_ptr",),
            targets=COUNTED,
        ),
    )


FUSED = (
    *cases("spike_linear", Layer(kernel=1, size=1)),
    *cases("spike_conv2d 3x3", Layer(kernel=3, size=8)),
    *cases("spike_conv2d 5x5", Layer(kernel=5, size=8)),
)
