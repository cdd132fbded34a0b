"""The kernels that the static report looks at: one entry of `CASES` each.

A case says how to launch the kernel and what of it the machine code does not tell: which loops of the source run how
often, and how many bytes cannot be avoided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from tssl_triton.kernels import neuron, packing, surrogate, synapse
from tssl_triton.kernels.layout import WINDOW, WORD, cdiv, checkpoint_rows, word_count, word_dtype
from tssl_triton.kernels.plan import Launch

from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import SLAYER, STBP, Rule

from .counting import Loop

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Problem:
    """``(steps, neurons)`` values of ``dtype`` on ``device``: "meta" to study a launch, "cpu" to interpret it."""

    steps: int
    neurons: int
    dtype: torch.dtype
    device: str = "meta"

    def tensor(self, rows: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """``(rows, neurons)`` zeros, of this problem's type or of another."""
        return torch.zeros((rows, self.neurons), dtype=dtype or self.dtype, device=self.device)

    def state(self, rows: int) -> torch.Tensor:
        """``(rows, neurons)`` of the type that state is held in."""
        return self.tensor(rows, torch.float32)

    def words(self) -> torch.Tensor:
        """A packed spike train."""
        return self.tensor(word_count(self.steps), word_dtype(self.steps))

    @property
    def value_bytes(self) -> int:
        """Bytes of one value, which is one neuron at one step."""
        return self.dtype.itemsize

    @property
    def word_bytes(self) -> float:
        """Bytes per neuron-step of a packed spike train."""
        return word_count(self.steps) * word_dtype(self.steps).itemsize / self.steps

    @property
    def checkpoint_bytes(self) -> float:
        """Bytes per neuron-step of the checkpoints that a run of several windows keeps."""
        return 4 * checkpoint_rows(self.steps) / self.steps


@dataclass(frozen=True)
class Case:
    """One kernel of the report.

    Args:
        name: in the table, and for ``--kernels``.
        launch: the launch for a problem.
        compulsory: bytes per neuron-step that must move, checkpoints apart.
        loops: the loops of the source, as one or several equally likely kinds of program run them.
        saved: bytes per neuron-step that a layer keeps between forward and backward, if this kernel decides that.
        multiply_adds: per neuron-step, of the matrix units, for kernels that use them.
        neurons: of the problem that is compiled; all programs are full.
        few_neurons: of the problem that is interpreted to count bytes; the last program is not full.
        dtypes: types that the kernel can be compiled for.
        targets: of the compiler, where the rules of `bench.static.counting` can follow its code.
        owner: "" for this package, or the peer that the kernel is from.
        checkpoints: the kernel's argument whose bytes are counted apart.
        shared: the kernel's arguments that all samples share, weights, whose bytes are left out: a batch divides them.
    """

    name: str
    launch: Callable[[Problem], Launch]
    compulsory: Callable[[Problem], float]
    loops: Callable[[Problem, Launch], tuple[tuple[Loop, ...], ...]]
    saved: Callable[[Problem], float] | None = None
    multiply_adds: Callable[[Problem], float] = lambda _: 0.0
    neurons: int = 1 << 20
    few_neurons: int = 272
    dtypes: tuple[str, ...] = tuple(DTYPES)
    targets: tuple[str, ...] = ("sm_80", "sm_90", "sm_100", "gfx942")
    owner: str = ""
    checkpoints: str = "checkpoints_ptr"
    shared: tuple[str, ...] = ()

    def bytes(self, p: Problem) -> int:
        """All that a problem must move, of any size: the compulsory bytes, checkpoints, and what samples share."""
        arguments = self.launch(replace(p, device="meta")).arguments
        beside = (arguments.get(name) for name in (self.checkpoints, *self.shared))
        return round(self.compulsory(p) * p.steps * p.neurons) + sum(t.nbytes for t in beside if t is not None)


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


def pack_launch(p: Problem) -> Launch:
    return packing.pack_launch(p.tensor(p.steps), p.words())


def unpack_launch(p: Problem) -> Launch:
    return packing.unpack_launch(p.words(), p.tensor(p.steps))


def window_loop(values: int) -> Callable[[Problem, Launch], tuple[tuple[Loop, ...], ...]]:
    """The loop over all windows but one, each of which moves ``values`` values a step and a checkpoint."""

    def loops(p: Problem, launch: Launch) -> tuple[tuple[Loop, ...], ...]:
        windows = cdiv(p.steps, WINDOW) - 1
        size = launch.arguments["BLOCK"] * (WINDOW * values * p.value_bytes + 12)
        return ((Loop(windows, size),),) if windows else ((),)

    return loops


def step_loop(values: int) -> Callable[[Problem, Launch], tuple[tuple[Loop, ...], ...]]:
    """The loop over all steps, each of which moves ``values`` values."""
    return lambda p, launch: ((Loop(p.steps, launch.arguments["BLOCK"] * values * p.value_bytes),),)


def word_loops(p: Problem, launch: Launch) -> tuple[tuple[Loop, ...], ...]:
    """A program takes one word of steps; the last word may be shorter."""
    steps = [min(WORD, p.steps - first) for first in range(0, p.steps, WORD)]
    return tuple((Loop(trips, launch.arguments["BLOCK"] * p.value_bytes),) for trips in steps)


def saved_by_lif(p: Problem) -> float:
    """The weighted input, the spikes as bits, and checkpoints."""
    return p.value_bytes + p.word_bytes + p.checkpoint_bytes


OURS = (
    Case(
        "lif forward",
        forward_launch,
        compulsory=lambda p: 2 * p.value_bytes + p.word_bytes,
        loops=window_loop(2),
        saved=saved_by_lif,
    ),
    Case(
        "lif backward",
        backward_launch,
        compulsory=lambda p: 3 * p.value_bytes + p.word_bytes,
        loops=window_loop(3),
    ),
    Case(
        "lif backward, no warm-up",
        lambda p: backward_launch(p, warmup="off"),
        compulsory=lambda p: 3 * p.value_bytes + p.word_bytes,
        loops=window_loop(3),
    ),
    Case(
        "lif forward, learnt constants",
        partial(forward_launch, learnt=True),
        compulsory=lambda p: 2 * p.value_bytes + p.word_bytes + 12 / p.steps,
        loops=window_loop(2),
    ),
    Case(
        "lif backward, learnt constants",
        partial(backward_launch, learnt=True),
        compulsory=lambda p: 3 * p.value_bytes + p.word_bytes + 24 / p.steps,
        loops=window_loop(3),
    ),
    *(
        Case(
            name,
            partial(surrogate_launch, rule=rule),
            # Spikes are asked for what their reset takes from the next step: of a single step there is none.
            compulsory=lambda p: 3 * p.value_bytes + (p.word_bytes if p.steps > 1 else 0),
            loops=window_loop(3),
        )
        for name, rule in (
            ("stbp backward", STBP()),
            ("stbp backward, sigmoid", STBP("sigmoid")),
            ("slayer backward", SLAYER()),
        )
    ),
    Case(
        "psc",
        lambda p: psc_launch(p, reverse=False),
        compulsory=lambda p: 2 * p.value_bytes,
        loops=step_loop(2),
    ),
    Case(
        "psc reverse",
        lambda p: psc_launch(p, reverse=True),
        compulsory=lambda p: 2 * p.value_bytes,
        loops=step_loop(2),
    ),
    Case("pack", pack_launch, compulsory=lambda p: p.value_bytes + p.word_bytes, loops=word_loops),
    Case("unpack", unpack_launch, compulsory=lambda p: p.value_bytes + p.word_bytes, loops=word_loops),
)


def all_cases() -> dict[str, Case]:
    """Ours, and those of the peers that are installed, by name."""
    from .fused_cases import FUSED
    from .peers import load

    peers, _ = load()
    return {case.name: case for case in (*OURS, *FUSED, *peers)}
