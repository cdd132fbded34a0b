"""Kernels of other packages for the same report, where installed (extra ``peers``).

Bytes saved for backward are those that each package's autograd function passes to ``save_for_backward``. Settings are
the packages' defaults; all tensors are contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from tssl_triton.kernels.layout import cdiv
from tssl_triton.kernels.plan import Launch

from .counting import Loop
from .problem import Case, Problem


def _spikingjelly() -> tuple[Case, ...]:
    """SpikingJelly 2: multi-step LIF in float32 arithmetic, ``backend="triton"``, sigmoid surrogate."""
    kernels = import_module("spikingjelly._ops.lif.triton")
    runtime = import_module("spikingjelly._ops.triton_runtime")
    block = 256

    def launch(kernel: Any, p: Problem, **arguments: Any) -> Launch:
        common = {"T": p.steps, "N": p.neurons, "tau": 2.0, "threshold": 1.0, "reset": 0.0, "DECAY_INPUT": True}
        options = {"SOFT_RESET": False, "STORE_V_SEQ": False, "BLOCK": block}
        grid = (cdiv(p.neurons, block),)
        return Launch(kernel, grid, {**arguments, **common, **options}, 4, contract=False)

    def forward(p: Problem) -> Launch:
        tensors = {"x_ptr": p.tensor(p.steps), "v_ptr": p.state(1), "spikes_ptr": p.tensor(p.steps)}
        tensors |= {"voltages_ptr": p.state(1), "charged_ptr": p.state(p.steps)}
        return launch(kernels._forward_kernel, p, **tensors)

    def backward(p: Problem) -> Launch:
        tensors = {"gs_ptr": p.tensor(p.steps), "gv_ptr": p.state(1), "h_ptr": p.state(p.steps)}
        tensors |= {"gx_ptr": p.tensor(p.steps), "gv_init_ptr": p.state(1)}
        unroll = p.steps if runtime.use_static_range_for_triton_neuron_kernel(p.steps) else 1
        options = {"alpha": 4.0, "DETACH_RESET": False, "SURROGATE": 0, "UNROLL": unroll}
        return launch(kernels._backward_kernel, p, **tensors, **options)

    def loops(p: Problem, launch: Launch) -> tuple[tuple[Loop, ...], ...]:
        return ((Loop(p.steps, block * (2 * p.value_bytes + 4)),),)

    return (
        Case(
            "spikingjelly lif forward",
            forward,
            compulsory=lambda p: 2 * p.value_bytes,
            loops=loops,
            saved=lambda p: p.value_bytes + 4 + 4 / p.steps,  # x, h and the first v
            owner="spikingjelly",
        ),
        Case(
            "spikingjelly lif backward",
            backward,
            compulsory=lambda p: 3 * p.value_bytes,
            loops=loops,
            owner="spikingjelly",
        ),
    )


def _tether() -> tuple[Case, ...]:
    """Tether: LIF that saves packed spikes and the membrane potential of every step; arctan surrogate.

    Its kernels do not compile for 16-bit types: the type of the membrane would change in the loop over time.
    """
    kernels = import_module("tether.kernels.lif")
    block = 1024

    def words(p: Problem) -> torch.Tensor:
        return p.tensor(cdiv(p.steps, 32), torch.int32)

    def launch(kernel: Any, p: Problem, **arguments: Any) -> Launch:
        sizes = {"n_neurons": p.neurons, "n_steps": p.steps, "BLOCK_SIZE": block}
        return Launch(kernel, (cdiv(p.neurons, block),), {**arguments, **sizes}, 4)

    def forward(p: Problem) -> Launch:
        tensors = {"X_ptr": p.tensor(p.steps), "V_init_ptr": p.tensor(1), "S_out_ptr": p.tensor(p.steps)}
        tensors |= {"S_packed_ptr": words(p), "V_seq_ptr": p.tensor(p.steps), "V_final_ptr": p.tensor(1)}
        return launch(kernels.lif_fwd_kernel, p, **tensors, decay=0.9, threshold=1.0)

    def backward(p: Problem) -> Launch:
        tensors = {"GRAD_OUT_ptr": p.tensor(p.steps), "S_packed_ptr": words(p), "V_seq_ptr": p.tensor(p.steps)}
        tensors |= {"GRAD_X_ptr": p.tensor(p.steps), "GRAD_V_FINAL_ptr": p.tensor(1), "V_init_ptr": p.tensor(1)}
        scalars = ("decay_ptr", "threshold_ptr", "alpha_ptr", "GRAD_DECAY_ptr", "GRAD_THRESHOLD_ptr", "GRAD_ALPHA_ptr")
        tensors |= {name: torch.ones(1, device=p.device) for name in scalars}
        return launch(kernels.lif_bwd_kernel, p, **tensors, surrogate_type=0)

    def loops(values: int) -> Callable[[Problem, Launch], tuple[tuple[Loop, ...], ...]]:
        return lambda p, launch: ((Loop(p.steps, block * values * p.value_bytes),),)

    return (
        Case(
            "tether lif forward",
            forward,
            compulsory=lambda p: 2 * p.value_bytes,
            loops=loops(3),
            saved=lambda p: p.value_bytes + 4 * cdiv(p.steps, 32) / p.steps + p.value_bytes / p.steps,
            dtypes=("fp32",),
            owner="tether",
        ),
        # Each membrane potential is loaded twice, at its own step and at the next; so are some words.
        Case(
            "tether lif backward",
            backward,
            compulsory=lambda p: 3 * p.value_bytes,
            loops=loops(5),
            dtypes=("fp32",),
            # For AMD the surrogate is chosen by flags, so that all three appear to be on one path.
            targets=("sm_80", "sm_90", "sm_100"),
            owner="tether",
        ),
    )


PEERS: dict[str, Callable[[], tuple[Case, ...]]] = {"spikingjelly": _spikingjelly, "tether": _tether}


@cache
def load() -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """Cases of importable peers, and a line for each other."""
    found: list[Case] = []
    missing = []
    for name, cases in PEERS.items():
        try:
            found += cases()
        except ImportError as error:
            missing.append(f"no rows for {name}: {error}; pip install -e '.[peers]'")
    return tuple(found), tuple(missing)
