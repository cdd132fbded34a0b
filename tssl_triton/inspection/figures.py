"""The figures of an inspection, each as the bytes of a PNG file.

Each is a new `matplotlib.figure.Figure`, without pyplot, so that no global state changes.
"""

from __future__ import annotations

import io
import math
from typing import Any

from torch import Tensor

from tssl_triton._extras import require
from tssl_triton.rules import TSSL
from tssl_triton.training import new_figure

from .choose import position
from .inspect import PERCENTILES, Inspection, LayerNumbers, TracedNeurons

#: Panels per row.
COLUMNS = 5

DPI = 110
PURPOSE = "the figures of an inspection"
SILENT, SATURATED = "tab:blue", "tab:red"
THRESHOLD, WARM = "tab:red", "tab:brown"


def pictures(inspection: Inspection) -> dict[str, bytes]:
    """All figures by file name: ``spikes.png``, ``layers.png``, and `traces_file` of each layer.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    drawn = {"spikes.png": spikes(inspection), "layers.png": layers(inspection)}
    for name in inspection.sample.traces:
        drawn[traces_file(name)] = traces(inspection, name)
    return drawn


def traces_file(name: str) -> str:
    """File name of the traces of the layer ``name``."""
    return f"traces-{name.replace(' ', '-')}.png"


def spikes(inspection: Inspection) -> bytes:
    """The sample, and each layer's spike raster below the share of its neurons that fire at each step."""
    sample, steps = inspection.sample, inspection.trainer.config.steps
    panels = 1 + len(sample.spikes)
    rows = math.ceil(panels / COLUMNS)
    columns = math.ceil(panels / rows)
    figure = new_figure(PURPOSE, 2.8 * columns, 3.9 * rows)
    result = f"class {sample.label}, predicted {sample.predicted}, loss {sample.loss:.3g}"
    figure.suptitle(f"Spikes of test sample {sample.index}: {result}")
    blocks = figure.subfigures(rows, columns, squeeze=False).flat
    _draw_sample(next(blocks).subplots(), sample.values)
    for block, (name, fired) in zip(blocks, sample.spikes.items(), strict=False):
        above, below = block.subplots(2, 1, sharex=True, height_ratios=(1, 3))
        above.set_title(f"{name}: {fired.shape[1]} neurons, {int(fired.sum())} spikes", fontsize="medium")
        above.bar(range(steps), (100 * fired.float().mean(1)).tolist(), width=0.8, color="0.6")
        above.set_ylabel("firing (%)")
        above.set_ylim(0, max(1.0, above.get_ylim()[1]))
        _draw_raster(below, fired)
        for k, index in enumerate(sample.traces[name].indices if name in sample.traces else ()):
            arrow = {"marker": "<", "markersize": 6, "transform": below.get_yaxis_transform(), "clip_on": False}
            below.plot(1.03, index, color=f"C{k}", **arrow)
        below.set_xlabel("time step t")
        below.set_ylabel("neuron")
        block.align_ylabels()
    return _png(figure)


def layers(inspection: Inspection) -> bytes:
    """Firing rates, shares of silent and saturated neurons, and gradient norms of the layers, top to bottom."""
    numbers = inspection.layers
    norms = {
        name if len(layer.norms) == 1 else f"{name} {each.parameter}": each
        for name, layer in numbers.items()
        for each in layer.norms
    }
    figure = new_figure(PURPOSE, 12, 1.9 + 0.42 * max(len(numbers), len(norms)))
    samples = f"{inspection.samples} test {inspection.trainer.images.noun}"
    figure.suptitle(f"Layers, over {samples}")
    axes = figure.subplots(1, 3)
    _draw_rates(axes[0], numbers)
    _draw_extremes(axes[1], numbers)
    _draw_norms(axes[2], [each.gradient for each in norms.values()])
    axes[2].set_xlabel(f"norm of dL/dW, L the {inspection.trainer.config.reduction} over {samples}")
    _name_rows(axes[2], list(norms))
    _legend_below(figure, axes)
    return _png(figure)


def traces(inspection: Inspection, name: str) -> bytes:
    """Chosen neurons of a layer, one per column: membrane potential, synaptic current, PSC and delta over time."""
    traced, numbers = inspection.sample.traces[name], inspection.layers[name]
    count = len(traced.indices)
    figure = new_figure(PURPOSE, 1 + 3.6 * count, 9)
    figure.suptitle(f"Neurons of layer {name}, test sample {inspection.sample.index}")
    axes = figure.subplots(4, count, sharex=True, squeeze=False)
    for row in axes[:3]:
        # All neurons share a scale, except for delta, which differs by orders of magnitude.
        for other in row[1:]:
            other.sharey(row[0])
    for k, index in enumerate(traced.indices):
        place = f" ({', '.join(map(str, position(index, numbers.shape)))})" if len(numbers.shape) > 1 else ""
        fired = int(traced.membrane.spikes[:, k].sum())
        title = f"neuron {index}{place}: {fired} spike{'' if fired == 1 else 's'}"
        axes[0, k].set_title(title, color=f"C{k}", fontsize="medium")
        _draw_neuron(axes[:, k], traced, k)
        axes[-1, k].set_xlabel("time step t")
    labels = ("membrane potential u[t]", "synaptic current i[t]", "PSC a[t]", "error δ[t] = dL/du[t]")
    for row, label in zip(axes, labels, strict=True):
        row[0].set_ylabel(label)
    figure.align_ylabels()
    _legend_below(figure, axes)
    return _png(figure)


def _draw_neuron(column: Any, traced: TracedNeurons, k: int) -> None:
    membrane_axes, current_axes, psc_axes, delta_axes = column
    trace, error, warm = traced.membrane, traced.error, traced.warm[:, k]
    params, constants = traced.params, traced.constants
    assert constants.threshold is not None
    assert constants.tau_syn is not None
    steps = range(len(traced.y))
    dotted = len(steps) <= 40
    style: dict[str, Any] = {"lw": 1.3, "marker": "o" if dotted else "", "markersize": 4, "color": f"C{k}"}

    u, v = trace.membrane[:, k].tolist(), trace.rest[:, k].tolist()
    # The membrane rises within a step and drops at the end of the step if it is reset.
    times = [-1.0, *(t for step in steps for t in (step, step))]
    membrane_axes.plot(times, [0.0, *(x for pair in zip(u, v, strict=True) for x in pair)], **{**style, "marker": ""})
    if dotted:
        membrane_axes.plot(steps, u, ls="", **style)
    membrane_axes.axhline(float(constants.threshold[k]), color=THRESHOLD, ls="--", lw=1, label="threshold")
    fires = [t for t in steps if trace.spikes[t, k]]
    membrane_axes.plot(
        fires, [u[t] for t in fires], "^", color="black", markersize=6 if dotted else 3, ls="", label="spike"
    )

    current_axes.plot(steps, trace.current[:, k].tolist(), **style)
    current_axes.axhline(0, color="0.7", lw=0.8)

    psc_axes.plot(steps, trace.psc[:, k].tolist(), **style)
    if params.warmup == "psc" and isinstance(traced.rule, TSSL):
        psc_axes.axhline(0.25 / float(constants.tau_syn[k]), color=WARM, ls=":", lw=1.2, label="bound of warm-up")

    delta_axes.axhline(0, color="0.7", lw=0.8)
    delta_axes.plot(steps, error.delta[:, k].tolist(), **style, label="δ")
    if not error.emitted.equal(error.delta):
        emitted = {**style, "color": "black", "ls": "--", "marker": "x" if dotted else ""}
        delta_axes.plot(steps, error.emitted[:, k].tolist(), **emitted, label="δ', emitted")
    for t in warm.nonzero().flatten().tolist():
        delta_axes.axvspan(t - 0.5, t + 0.5, color=WARM, alpha=0.12, lw=0, label="warm-up")
    delta_axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    for axes in column:
        axes.grid(alpha=0.3)
        _count_steps(axes, len(steps))


def _draw_sample(axes: Any, values: Tensor) -> None:
    """Draw an image, in colour if it has three channels, or the mean of a sequence over time; sum other channels."""
    still = values.dim() == 3
    axes.set_title("input" if still else "input, mean over time", fontsize="medium")
    image = values if still else values.mean(0)
    low, high = float(image.min()), float(image.max())
    image = (image - low) / max(high - low, 1e-12)
    if len(image) == 3:
        axes.imshow(image.permute(1, 2, 0).numpy())
    else:
        axes.imshow(image.sum(0).numpy(), cmap="gray", interpolation="nearest")
    axes.set_axis_off()


def _draw_raster(axes: Any, fired: Tensor) -> None:
    """Draw a bar per spike, as wide as a step and as high as a neuron, or high enough to be visible."""
    steps, neurons = fired.shape
    times, indices = fired.numpy().nonzero()
    points_per_neuron = 160 / neurons
    axes.hlines(indices, times - 0.45, times + 0.45, color="black", lw=min(max(0.9 * points_per_neuron, 0.6), 12))
    margin = max(0.5, 0.01 * neurons)
    axes.set_ylim(neurons - 1 + margin, -margin)
    _count_steps(axes, steps)
    _whole_numbers(axes.yaxis)


def _draw_rates(axes: Any, numbers: dict[str, LayerNumbers]) -> None:
    low, _, high = PERCENTILES
    for k, layer in enumerate(numbers.values()):
        first, median, last = layer.percentiles
        axes.barh(k, layer.firing.rate, height=0.6, color="0.75", label="mean")
        axes.plot([first, last], [k, k], color="black", lw=1.2, label=f"{low}th to {high}th percentile")
        axes.plot(median, k, "|", color="black", markersize=9, label="median")
        axes.annotate(f"{layer.firing.rate:.3f}", (last, k), (5, 0), textcoords="offset points", va="center")
    axes.set_xlabel("firing rate of a neuron (spikes per step)")
    axes.set_xlim(0, 1.25 * max(1e-3, *(max(layer.firing.rate, layer.percentiles[-1]) for layer in numbers.values())))
    _name_rows(axes, list(numbers))


def _draw_norms(axes: Any, norms: list[float]) -> None:
    """Draw a dot per norm, on a logarithmic scale of whole decades if all norms are positive and finite."""
    axes.plot(norms, range(len(norms)), "o", color="tab:purple", markersize=8)
    for k, norm in enumerate(norms):
        axes.annotate(f"{norm:.3g}", (norm, k), (9, 0), textcoords="offset points", va="center")
    if all(0 < norm < math.inf for norm in norms):
        axes.set_xscale("log")
        low = math.floor(math.log10(min(norms)))
        high = max(math.ceil(math.log10(max(norms))), low + 1)
        axes.set_xlim(10**low, 10 ** (high + 0.3 * (high - low)))  # leaves space for the numbers
    else:
        axes.margins(x=0.3)


def _draw_extremes(axes: Any, numbers: dict[str, LayerNumbers]) -> None:
    for offset, kind, color in ((-0.19, "silent", SILENT), (0.19, "saturated", SATURATED)):
        counts = [getattr(layer, kind) for layer in numbers.values()]
        shares = [100 * n / layer.firing.neurons for n, layer in zip(counts, numbers.values(), strict=True)]
        places = [k + offset for k in range(len(numbers))]
        axes.barh(places, shares, height=0.34, color=color, label=kind)
        for place, share, n in zip(places, shares, counts, strict=True):
            axes.annotate(str(n), (share, place), (4, 0), textcoords="offset points", va="center", fontsize="small")
    axes.set_xlabel("neurons of the layer (%, and their number)")
    axes.set_xlim(0, max(1.0, 1.2 * axes.get_xlim()[1]))
    _name_rows(axes, list(numbers))


def _name_rows(axes: Any, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _legend_below(figure: Any, axes: Any) -> None:
    """Draw one legend for all panels, with each label once."""
    handles: dict[str, Any] = {}
    for panel in axes.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)


def _count_steps(axes: Any, steps: int) -> None:
    axes.set_xlim(-0.6, steps - 0.4)
    _whole_numbers(axes.xaxis)


def _whole_numbers(axis: Any) -> None:
    ticker = require("matplotlib.ticker", "train", PURPOSE)
    axis.set_major_locator(ticker.MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
