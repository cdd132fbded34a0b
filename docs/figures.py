"""The figures of docs/mathematics.md: ``python docs/figures.py`` draws them anew beside this file.

Each is one function that computes its curves with the package, and one that draws them, so that a test can look at the
curves. What the package does not hand out, the membrane potential and the paper's table, the NumPy reference computes.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch

from tssl_triton import LIFParameters, LIFState, lif, psc
from tssl_triton import reference as ref

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator

FOLDER = Path(__file__).parent
STEPS = 32
#: The carry without warm-up, which replaces what is emitted but not what is carried.
NEURON = LIFParameters(warmup="off")

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#8c8c8c"
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 105,
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.8,
    "savefig.facecolor": "white",
}


class Run(NamedTuple):
    """One neuron over time, each ``(T,)``."""

    current: np.ndarray
    """Weighted input y."""
    spikes: np.ndarray
    """Its spikes, as the package has them."""
    psc: np.ndarray
    """Its postsynaptic current a."""
    trace: ref.Trace
    """What the reference passed through, float64."""


def one_neuron() -> Run:
    """A neuron with twelve inputs that fire at random for 24 steps and then stop."""
    rng = np.random.default_rng(6)
    rate = np.where(np.arange(STEPS) < 24, 0.4, 0.0)
    inputs = (rng.random((12, STEPS)) < rate).astype(np.float64)
    y = rng.normal(0.13, 0.12, 12) @ inputs
    current = torch.tensor(y).reshape(STEPS, 1, 1)
    spikes = lif(current, NEURON)
    filtered = psc(spikes, NEURON.tau_syn)
    trace = ref.lif_forward(
        current.numpy(), tau_mem=NEURON.tau_mem, tau_syn=NEURON.tau_syn, threshold=NEURON.threshold, reset=NEURON.reset
    )
    return Run(y, spikes.numpy().ravel(), filtered.numpy().ravel(), trace)


class Errors(NamedTuple):
    """The error of one neuron's membrane potential, both ways."""

    run: Run
    upstream: np.ndarray
    """G = dL/ds, ``(T,)``."""
    table: np.ndarray
    """phi(k, m) between a spike k and the membrane potential at m, ``(T, T)``."""
    carried: np.ndarray
    """delta as the package carries it back, ``(T,)``."""
    summed: np.ndarray
    """sum over k of phi(k, m) G[k], ``(T,)``."""


def errors() -> Errors:
    """delta of `one_neuron` for an error at random, by the linear carry and by the table."""
    run = one_neuron()
    upstream = np.random.default_rng(1).normal(size=STEPS)
    # Handed the synaptic current itself, the neuron's gradient is delta: there is no synapse to go back through.
    current = torch.tensor(run.trace.current, requires_grad=True)
    lif(current, NEURON, synapse=False).backward(torch.tensor(upstream).reshape(STEPS, 1, 1))
    table = ref.phi_table(
        run.trace,
        np.eye(STEPS),
        tau_mem=NEURON.tau_mem,
        threshold=NEURON.threshold,
        reset=NEURON.reset,
        max_slope=NEURON.max_slope,
        variant=NEURON.variant,
    ).reshape(STEPS, STEPS)
    assert current.grad is not None
    return Errors(run, upstream, table, current.grad.numpy().ravel(), upstream @ table)


def slopes(u: np.ndarray, before: float, warmup: str = "off") -> np.ndarray:
    """dL/du for dL/ds = 1 of a neuron whose membrane potential goes from ``before`` to ``u`` in its only step."""
    params = LIFParameters(warmup=warmup)
    state = LIFState(*(torch.full((1, len(u)), value, dtype=torch.float64) for value in (0.0, before, 0.0)))
    current = torch.tensor(u - params.alpha * before).reshape(1, 1, -1).requires_grad_()
    lif(current, params, state=state, synapse=False).sum().backward()
    assert current.grad is not None
    return current.grad.numpy().ravel()


def draw_neuron(run: Run) -> plt.Figure:
    t = np.arange(STEPS)
    fired = t[run.spikes > 0]
    membrane, current = run.trace.membrane.ravel(), run.trace.current.ravel()
    figure, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(7.2, 5.0), sharex=True, height_ratios=(1.1, 2.0, 1.1), layout="constrained"
    )
    top.bar(t, run.current, width=0.6, color=GREY, alpha=0.6, label="weighted input y")
    top.plot(t, current, color=GREEN, label="synaptic current i")
    top.set_ylabel("input")

    for axes in (middle, bottom):
        axes.vlines(fired, 0, 1, transform=axes.get_xaxis_transform(), color=ORANGE, alpha=0.18, linewidth=7)
    middle.axhline(NEURON.threshold, color="black", linestyle="--", linewidth=1, label="threshold")
    # From u to v within a step: the reset is a drop.
    both = np.stack([membrane, run.trace.rest.ravel()], axis=1).ravel()
    middle.plot(np.repeat(t, 2), both, color=BLUE, label="u, dropping to v")
    middle.plot(t, membrane, "o", color=BLUE, markersize=3)
    middle.plot(fired, membrane[fired], "o", color=ORANGE, markersize=6, label="spike")
    middle.set_ylabel("membrane potential")

    bottom.plot(t, run.psc, color=ORANGE, marker="o", markersize=3, label="postsynaptic current a")
    bottom.axhline(1 / (4 * NEURON.tau_syn), color="black", linestyle="--", linewidth=1, label="1/(4 tau_syn)")
    bottom.set_ylabel("output")
    bottom.set_xlabel("time step t")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (top, middle, bottom):
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        axes.set_xlim(-0.8, STEPS - 0.2)
    return figure


def draw_errors(found: Errors) -> plt.Figure:
    t = np.arange(STEPS)
    fired = t[found.run.spikes > 0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), width_ratios=(1.0, 1.7), layout="constrained")
    picture = left.imshow(
        np.ma.masked_equal(found.table, 0), origin="lower", cmap="viridis", norm=PowerNorm(0.5, vmin=0)
    )
    figure.colorbar(picture, ax=left, shrink=0.85)
    left.set_title("phi(k, m)", fontsize=9)
    left.set_xlabel("m, where the membrane is")
    left.set_ylabel("k, where the error arrives")
    left.grid(False)

    right.vlines(fired, 0, 1, transform=right.get_xaxis_transform(), color=ORANGE, alpha=0.18, linewidth=7)
    right.axhline(0, color="black", linewidth=0.8)
    right.bar(t, found.upstream, width=0.5, color=GREY, alpha=0.5, label="G[t], from above")
    right.plot(t, found.carried, color=BLUE, label="delta[t], carried back")
    right.plot(
        t, found.summed, "o", color=ORANGE, markersize=5, markerfacecolor="none", label="sum over k of phi(k, t) G[k]"
    )
    right.set_xlabel("time step t (spikes shaded)")
    right.set_ylabel("error")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_xlim(-0.8, STEPS - 0.2)
    right.legend(loc="best")
    return figure


def draw_slopes() -> plt.Figure:
    u = np.linspace(0.0, 2.4, 1201)
    params = LIFParameters()
    figure, axes = plt.subplots(figsize=(7.2, 3.2), layout="constrained")
    axes.axvline(params.threshold, color="black", linestyle="--", linewidth=1, label="threshold")
    for before, color in ((0.0, "#003f6b"), (0.5, BLUE), (0.9, "#56b4e9")):
        kappa = np.where(u > params.threshold, slopes(u, before), np.nan)
        axes.plot(u, kappa, color=color, label=f"kappa after v[t-1] = {before:g}")
    axes.plot(u, slopes(u, 0.0, "always"), color=ORANGE, label="f(u), the warm-up's surrogate")
    axes.set_xlabel("membrane potential u[t]")
    axes.set_ylabel("dL/du for dL/ds = 1")
    axes.set_ylim(0, 1.05 * params.max_slope)
    axes.set_xlim(u[0], u[-1])
    axes.legend(loc="upper right")
    return figure


def main() -> None:
    with plt.rc_context(STYLE):
        drawn = {
            "neuron.png": draw_neuron(one_neuron()),
            "errors.png": draw_errors(errors()),
            "slopes.png": draw_slopes(),
        }
        for name, figure in drawn.items():
            # Without the version of matplotlib in it, a file changes only where its picture does.
            figure.savefig(FOLDER / name, metadata={"Software": None}, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
