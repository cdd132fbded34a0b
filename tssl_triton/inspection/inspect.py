"""Inspection of a trained network: one test sample in detail, statistics over many samples.

* One sample, presented as in a test: the spikes of every layer; and for chosen neurons the membrane potential, the
  postsynaptic current and delta, the error of the run's loss (recomputed by `tssl_triton.inspection.replay`).
* Many samples: firing rates, neurons that never fire or fire at every step, and the norm of each weight's gradient.

Hooks record the input and output of each layer, and autograd computes dL/ds. Only the chosen neurons are replayed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tssl_triton import losses
from tssl_triton._checks import check_count
from tssl_triton.encoding import StaticInput
from tssl_triton.functional import LIFConstants, stacked_constants
from tssl_triton.nn import LIF, spiking_layers
from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import Rule
from tssl_triton.training import ConfigError, Tracker, Trainer, untracked

from .choose import choose_neurons, find_neurons, position, read_neuron
from .replay import ErrorTrace, MembraneTrace, error_trace, membrane_trace, warming_up
from .sparsity import LayerSparsity, SpikeCounter, counting, summed

#: Defaults: traced neurons per layer, and samples for rates and norms.
NEURONS = 3
SAMPLES = 1000

#: Reported percentiles of a layer's firing rates.
PERCENTILES = (5, 50, 95)


class WeightNorms(NamedTuple):
    """Euclidean norms of one parameter of a layer and of its gradient."""

    parameter: str
    gradient: float
    weight: float


@dataclass(frozen=True)
class LayerNumbers:
    """Statistics of one layer over many samples.

    Args:
        firing: spikes per sample and rates.
        shape: of the layer's neurons, without time and batch.
        silent: number of neurons that never fire.
        saturated: number of neurons that fire at every step of every sample.
        percentiles: `PERCENTILES` of the neurons' firing rates, in spikes per step.
        norms: one entry per parameter.
        learnt: minimum, mean and maximum of each constant that the layer learns.
    """

    firing: LayerSparsity
    shape: tuple[int, ...]
    silent: int
    saturated: int
    percentiles: tuple[float, ...]
    norms: tuple[WeightNorms, ...]
    learnt: dict[str, tuple[float, float, float]]

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return {
            "shape": list(self.shape),
            "neurons": self.firing.neurons,
            "rate": self.firing.rate,
            "rate_percentiles": dict(zip(map(str, PERCENTILES), self.percentiles, strict=True)),
            "silent": self.silent,
            "saturated": self.saturated,
            "share_firing_k_times": list(self.firing.shares),
            "norms": [norms._asdict() for norms in self.norms],
            "learnt": {
                name: dict(zip(("lowest", "mean", "highest"), of, strict=True)) for name, of in self.learnt.items()
            },
        }


@dataclass(frozen=True)
class TracedNeurons:
    """Chosen neurons of one layer during one sample; series are ``(T, K)``.

    Args:
        params: constants of the neurons and of their gradient.
        constants: time constants and thresholds, ``(K,)`` each: those of ``params``, or learnt ones.
        rule: the learning rule.
        indices: K flat indices into the layer's neurons; the last axis varies fastest.
        y: weighted input.
        grad_spikes: G = dL/ds.
        membrane: states of the neurons.
        error: their errors.
        warm: where the warm-up of TSSL-BP replaces delta.
    """

    params: LIFParameters
    constants: LIFConstants
    rule: Rule
    indices: tuple[int, ...]
    y: Tensor
    grad_spikes: Tensor
    membrane: MembraneTrace
    error: ErrorTrace
    warm: Tensor


@dataclass(frozen=True)
class Presentation:
    """One test sample and the network's response.

    Args:
        index: of the sample in the test set.
        label: its class.
        predicted: the predicted class.
        loss: the run's loss.
        values: the sample as presented, ``(C, H, W)``, or ``(T, C, H, W)`` if it changes over time.
        spikes: of each layer, ``(T, N)`` bool.
        traces: of each layer with chosen neurons.
    """

    index: int
    label: int
    predicted: int
    loss: float
    values: Tensor
    spikes: dict[str, Tensor]
    traces: dict[str, TracedNeurons]


@dataclass(frozen=True)
class Inspection:
    """Result of `inspect`.

    Args:
        trainer: holds the network.
        samples: number of test samples for ``layers``.
        layers: statistics of each layer, from input to output.
        sample: one test sample in detail.
    """

    trainer: Trainer
    samples: int
    layers: dict[str, LayerNumbers]
    sample: Presentation

    @property
    def title(self) -> str:
        """Data set, architecture, learning rule and epochs in one line."""
        config = self.trainer.config
        return f"{config.dataset}  {config.arch}, rule {config.rule}, after {self.trainer.epoch} epochs"

    def table(self) -> list[list[str]]:
        """Rows of text, heading first; one row per layer and parameter."""
        rows = [["layer", "neurons", "rate", "silent", "saturated", "parameter", "gradient norm", "weight norm"]]
        for name, layer in self.layers.items():
            firing = layer.firing
            cells = [name, str(firing.neurons), f"{firing.rate:.4f}", str(layer.silent), str(layer.saturated)]
            for norms in layer.norms:
                rows.append([*cells, norms.parameter, f"{norms.gradient:.3g}", f"{norms.weight:.3g}"])
                cells = [""] * len(cells)
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON. Steps count from 0."""
        config, sample = self.trainer.config, self.sample
        return {
            "dataset": config.dataset,
            "arch": config.arch,
            "rule": config.rule,
            "steps": config.steps,
            "epochs": self.trainer.epoch,
            "samples": self.samples,
            "reduction": config.reduction,
            "layers": [{"name": name, **layer.as_dict()} for name, layer in self.layers.items()],
            "sample": {
                **{field: getattr(sample, field) for field in ("index", "label", "predicted", "loss")},
                "spikes_per_step": {name: spikes.sum(1).tolist() for name, spikes in sample.spikes.items()},
                "neurons": [
                    neuron
                    for name, traced in sample.traces.items()
                    for neuron in _neurons_as_dicts(name, self.layers[name].shape, traced)
                ],
            },
        }


def inspect(
    trainer: Trainer,
    sample: int = 0,
    neurons: int | Sequence[str] = NEURONS,
    samples: int = SAMPLES,
    over: Tracker[Any] = untracked,
) -> Inspection:
    """Inspect the network of ``trainer``, which is left unchanged, as is the state of the random number generators.

    Args:
        trainer: of a run with spikes.
        sample: index of the test sample to show in detail.
        neurons: number of traced neurons per layer, chosen by `tssl_triton.inspection.choose.choose_neurons`; or the
            neurons themselves, as ``LAYER:INDEX``.
        samples: number of test samples, from the first, for firing rates and gradient norms; at most all of them.
        over: shows progress, see `tssl_triton.training.choose_tracker`.

    Raises:
        ConfigError: if the network has no spikes, or an argument is out of range.
    """
    config, network, count = trainer.config, trainer.network, len(trainer.images.test_labels)
    layers = spiking_layers(network)
    if not layers:
        raise ConfigError(
            f"rule {config.rule!r} has no spiking neurons: spikes, membrane potentials, postsynaptic currents, errors "
            "over time, firing rates, silent and saturated neurons are not available"
        )
    try:
        check_count("sample", sample, 0)
        samples = min(check_count("samples", samples), count)
        wanted = check_count("neurons", neurons) if isinstance(neurons, int) else list(map(read_neuron, neurons))
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error
    if sample >= count:
        raise ConfigError(
            f"sample must be one of the {count} test {trainer.images.noun}, 0 to {count - 1}; got {sample}"
        )

    training = network.training
    try:
        presented, records = _present(trainer, layers, sample)
        shapes = {name: tuple(record.spikes.shape[2:]) for name, record in records.items()}
        # Checks names and indices before the slow part.
        chosen = {} if isinstance(wanted, int) else find_neurons(wanted, shapes)
        counters = _count_spikes(trainer, layers, samples, over)
        norms = _norms(trainer, layers, samples, over)
        if isinstance(wanted, int):
            chosen = {name: choose_neurons(presented.spikes[name], counters[name], wanted) for name in layers}
        traces = {name: _trace(layers[name], records[name], rows) for name, rows in chosen.items() if rows}
    finally:
        network.train(training)
    numbers = {name: _numbers(name, layers[name], counters[name], shapes[name], norms[name]) for name in layers}
    return Inspection(trainer, samples, numbers, replace(presented, traces=traces))


class _Record(NamedTuple):
    """A layer's input, and its output with dL/ds; time and batch first, the batch is one sample."""

    x: Tensor | StaticInput
    spikes: Tensor
    grad_spikes: Tensor


def _present(trainer: Trainer, layers: Mapping[str, LIF], index: int) -> tuple[Presentation, dict[str, _Record]]:
    """Run one test sample forward and backward, and record every layer."""
    config, images = trainer.config, trainer.images
    values, labels = images.test_batch(index, index + 1)
    inputs: dict[str, Tensor | StaticInput] = {}
    outputs: dict[str, Tensor] = {}

    def recorder(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], spikes: Tensor) -> None:
            inputs[name], outputs[name] = args[0], spikes

        return hook

    trainer.network.eval()
    hooks = [layer.register_forward_hook(recorder(name)) for name, layer in layers.items()]
    try:
        with torch.enable_grad():
            x = images.present(values, config.steps)
            output = trainer.network(x)
            loss = trainer.loss(output, labels).sum()
            errors = torch.autograd.grad(loss, list(outputs.values()))
    finally:
        for each in hooks:
            each.remove()
    presented = Presentation(
        index=index,
        label=int(labels),
        predicted=int(losses.predict(output.detach(), config.readout, config.tau_syn)),  # type: ignore[arg-type]
        loss=loss.item(),
        values=(x.values[0] if isinstance(x, StaticInput) else x[:, 0]).detach().cpu().float(),
        spikes={name: _flat(spikes).cpu() != 0 for name, spikes in outputs.items()},
        traces={},
    )
    return presented, {
        name: _Record(inputs[name], spikes, error)
        for (name, spikes), error in zip(outputs.items(), errors, strict=True)
    }


@torch.no_grad()
def _trace(layer: LIF, record: _Record, indices: tuple[int, ...]) -> TracedNeurons:
    """Replay the neurons of a layer at ``indices``."""
    weighted = layer.weighted(record.x)
    dense = weighted if isinstance(weighted, Tensor) else weighted.dense()
    y, spikes, grad = (
        _flat(series)[:, list(indices)].detach().cpu() for series in (dense, record.spikes, record.grad_spikes)
    )
    learnt = LIFConstants() if layer.constants is None else layer.constants()
    constants = LIFConstants(*stacked_constants(learnt, layer.params, dense)[:, 0].flatten(1)[:, list(indices)].cpu())
    given = None if layer.constants is None else constants
    membrane = membrane_trace(y, layer.params, synapse=layer.synapse, spikes=spikes, learnt=given)
    error = error_trace(membrane, grad, layer.params, layer.rule, synapse=layer.synapse, learnt=given)
    warm = warming_up(membrane, layer.params, layer.rule, given)
    return TracedNeurons(layer.params, constants, layer.rule, indices, y, grad, membrane, error, warm)


def _flat(series: Tensor) -> Tensor:
    """``(T, 1, *)`` as ``(T, N)``."""
    return series[:, 0].flatten(1)


@torch.no_grad()
def _count_spikes(
    trainer: Trainer, layers: Mapping[str, LIF], samples: int, over: Tracker[Any]
) -> dict[str, SpikeCounter]:
    """Count the spikes of each layer over the first ``samples`` test samples, in evaluation mode."""
    config, images, size = trainer.config, trainer.images, trainer.config.test_batch_size
    trainer.network.eval()
    with counting(layers, config.steps) as counters:
        for start in over(range(0, samples, size), "firing rates"):
            values, _ = images.test_batch(start, min(start + size, samples))
            trainer.network(images.present(values, config.steps))
    return counters


def _norms(
    trainer: Trainer, layers: Mapping[str, LIF], samples: int, over: Tracker[Any]
) -> dict[str, tuple[WeightNorms, ...]]:
    """Norms of each layer's parameters and of their gradients, with the first ``samples`` test samples as one batch.

    The gradient is that of a training step before clipping: with dropout, and with the run's ``reduction``.
    """
    config, images, size = trainer.config, trainer.images, trainer.config.batch_size
    parameters = {
        (name, kind): parameter for name, layer in layers.items() for kind, parameter in layer.named_parameters()
    }
    sums = [torch.zeros_like(parameter) for parameter in parameters.values()]
    trainer.network.train()
    devices = [trainer.device] if trainer.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        for start in over(range(0, samples, size), "gradient norms"):
            values, labels = images.test_batch(start, min(start + size, samples))
            loss = trainer.loss(trainer.network(images.present(values, config.steps)), labels).sum()
            for total, gradient in zip(sums, torch.autograd.grad(loss, list(parameters.values())), strict=True):
                total += gradient
    scale = 1.0 if config.reduction == "sum" else 1.0 / samples
    norms: dict[str, list[WeightNorms]] = {name: [] for name in layers}
    for ((name, kind), parameter), total in zip(parameters.items(), sums, strict=True):
        norms[name].append(WeightNorms(kind, scale * float(total.norm()), float(parameter.detach().norm())))
    return {name: tuple(each) for name, each in norms.items()}


@torch.no_grad()
def _numbers(
    name: str, layer: LIF, counter: SpikeCounter, shape: tuple[int, ...], norms: tuple[WeightNorms, ...]
) -> LayerNumbers:
    assert counter.spikes is not None
    most = counter.steps * counter.samples
    rates = counter.spikes.double() / most
    quantiles = torch.quantile(rates, torch.tensor(PERCENTILES, dtype=torch.float64) / 100)
    return LayerNumbers(
        firing=summed(name, [counter]),
        shape=shape,
        silent=int((counter.spikes == 0).sum()),
        saturated=int((counter.spikes == most).sum()),
        percentiles=tuple(quantiles.tolist()),
        norms=norms,
        learnt={
            constant: (float(values.min()), float(values.mean()), float(values.max()))
            for constant, values in (() if layer.constants is None else layer.constants()._asdict().items())
            if values is not None
        },
    )


def _neurons_as_dicts(name: str, shape: Sequence[int], traced: TracedNeurons) -> list[dict[str, Any]]:
    series = {
        "y": traced.y,
        "i": traced.membrane.current,
        "u": traced.membrane.membrane,
        "v": traced.membrane.rest,
        "s": traced.membrane.spikes.int(),
        "a": traced.membrane.psc,
        "grad_spikes": traced.grad_spikes,
        "delta": traced.error.delta,
        "emitted": traced.error.emitted,
        "grad_current": traced.error.grad_current,
        "warm_up": traced.warm,
    }
    return [
        {
            "layer": name,
            "index": index,
            "position": list(position(index, shape)),
            "constants": {
                kind: float(values[k]) for kind, values in traced.constants._asdict().items() if values is not None
            },
            **{kind: values[:, k].tolist() for kind, values in series.items()},
        }
        for k, index in enumerate(traced.indices)
    ]
