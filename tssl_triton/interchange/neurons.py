"""Conversion between a layer's neurons and a NIR node. ::

    CubaLIF   tau_syn dI/dt = -I + w_in S,  tau_mem dv/dt = v_leak - v + R I,  spike where v > v_threshold
    LIF       the second equation alone, with S in place of I; here a neuron without synapse

One step of forward Euler, dt seconds long, with the synaptic current of the same step in the membrane::

    I[t] = (1 - dt/tau_syn) I[t-1] + w_in dt/tau_syn S[t]
    v[t] = (1 - dt/tau_mem) v[t-1] + R dt/tau_mem I[t]        v_leak = 0

These are eqs. (3) and (4) if the time constants of the node are those of the layer times dt, R is tau_mem in steps and
w_in is 1. Other R and w_in multiply the weighted input by ``gain = w_in R dt / tau_mem``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tssl_triton._extras import require
from tssl_triton.functional import LIFConstants
from tssl_triton.nn import LIF
from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import BY_NAME, DEFAULT, Rule

from .errors import InterchangeError
from .metadata import attached, entries_of

if TYPE_CHECKING:
    import nir

SINGLE = 2.0**-22
"""Relative error of a constant in single precision, which other programs often use."""

EXECUTION = ("recompute", "fused")
"""Settings of a weighted layer that do not change its result."""


class Neurons(NamedTuple):
    """Contents of a neuron node."""

    params: LIFParameters
    synapse: bool
    """Whether the node filters its input."""
    gain: float
    """Factor on the weighted input; 1 for nodes of this package, unless it contains the scale of a pooling."""
    rule: Rule
    execution: dict[str, Any]
    """Settings of `EXECUTION` in the node's metadata."""


def neuron_node(layer: LIF, shape: tuple[int, ...], dt: float, w_in: float = 1.0) -> nir.NIRNode:
    """The node of a layer's neurons, without the layer's weights.

    Args:
        layer: the neurons.
        shape: of the neurons, without time and batch; NIR stores the constants of each neuron.
        dt: seconds per time step.
        w_in: factor on the input, to compensate for a pooling before the node.

    Raises:
        ValueError: for neurons without leak, which NIR cannot express.
    """
    nodes = require("nir", "interchange", "writing a NIR graph")
    constants = _constants(layer, shape)
    params = layer.params
    if layer.constants is not None:
        # NIR has no learnable constants: those with one value for all neurons become parameters.
        shared = {name: float(values.flat[0]) for name, values in constants.items() if np.ptp(values) == 0}
        params = dataclasses.replace(params, **shared)  # type: ignore[arg-type]
    if math.isinf(params.tau_mem):
        raise ValueError(
            "neurons without leak (tau_mem = inf) cannot be exported: time constants of CubaLIF are finite"
        )
    entries: dict[str, Any] = {
        "params": dataclasses.asdict(params),
        "rule": {"name": layer.rule.name, **dataclasses.asdict(layer.rule)},
    }
    execution = {name: getattr(layer, name) for name in EXECUTION if hasattr(layer, name)}
    if execution:
        entries["execution"] = execution
    common = {
        "v_leak": np.zeros(shape),
        "v_threshold": constants["threshold"],
        "v_reset": np.zeros(shape),
        "metadata": attached(entries),
    }
    tau_mem = constants["tau_mem"] * dt
    if not layer.synapse:
        return nodes.LIF(tau=tau_mem, r=constants["tau_mem"] * w_in, **common)
    return nodes.CubaLIF(
        tau_mem=tau_mem,
        tau_syn=constants["tau_syn"] * dt,
        r=constants["tau_mem"],
        w_in=np.full(shape, w_in),
        **common,
    )


def _constants(layer: LIF, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Current time constants (in steps) and threshold of each neuron."""
    found = {name: np.full(shape, getattr(layer.params, name)) for name in LIFConstants._fields}
    if layer.constants is not None:
        for name, value in layer.constants()._asdict().items():
            if value is not None:
                found[name] = np.broadcast_to(value.detach().cpu().double().numpy(), shape).copy()
    return found


def read_neurons(node: nir.NIRNode, shape: tuple[int, ...], dt: float) -> Neurons:
    """The contents of a CubaLIF or LIF node, whose neurons must all have the same constants.

    Args:
        node: the node.
        shape: of its input, without time and batch.
        dt: seconds per time step.

    Raises:
        InterchangeError: if this package has no such neurons, or the metadata of the node contradict its fields.
    """
    synapse = hasattr(node, "tau_syn")
    names = ("tau_mem", "tau_syn", "w_in") if synapse else ("tau",)
    fields = {name: _same_for_all(node, name, shape) for name in (*names, "r", "v_leak", "v_threshold", "v_reset")}
    for name in ("v_leak", "v_reset"):
        if fields[name] != 0:
            raise InterchangeError(f"{name} is {fields[name]:g}, but neurons of this package leak and reset to 0")
    entries = entries_of(node)
    steps = {"tau_mem": _steps("tau_mem" if synapse else "tau", fields, dt)}
    if synapse:
        steps["tau_syn"] = _steps("tau_syn", fields, dt)
    params = _params(steps | {"threshold": fields["v_threshold"]}, entries)
    gain = fields.get("w_in", 1.0) * fields["r"] / params.tau_mem
    # Equal to 1 in single precision: treat it as 1, so that weights are not rounded.
    gain = 1.0 if abs(gain - 1.0) <= SINGLE else gain
    return Neurons(params, synapse, gain, _rule(entries), entries.get("execution", {}))


def _same_for_all(node: nir.NIRNode, name: str, shape: tuple[int, ...]) -> float:
    values = np.asarray(getattr(node, name), dtype=np.float64)
    if values.size != 1 and values.shape != shape:
        raise InterchangeError(f"{name} has shape {values.shape}, but its input has shape {shape}")
    if values.min() != values.max():
        raise InterchangeError(
            f"{name} differs between neurons, {values.min():g} to {values.max():g}; all must have one value"
        )
    return float(values.flat[0])


def _steps(name: str, fields: Mapping[str, float], dt: float) -> float:
    """A time constant in steps; rounded to an integer if it is equal to one in single precision."""
    steps = fields[name] / dt
    nearest = round(steps) if math.isfinite(steps) else steps
    steps = float(nearest) if abs(steps - nearest) <= SINGLE * abs(steps) else steps
    if not 1 <= steps < math.inf:
        raise InterchangeError(
            f"{name} is {fields[name]:g} s, {steps:g} time steps of {dt:g} s; it must be finite and at least one step"
        )
    return steps


def _params(fields: Mapping[str, float], entries: Mapping[str, Any]) -> LIFParameters:
    """The constants of the node: from its metadata if they agree with the fields to single precision."""
    if "params" not in entries:
        # Without a synaptic filter the current is the input, as with a time constant of one step.
        return LIFParameters(**({"tau_syn": 1.0} | dict(fields)))  # type: ignore[arg-type]
    params = LIFParameters(**entries["params"])
    for name, value in fields.items():
        kept = getattr(params, name)
        if abs(kept - value) > SINGLE * abs(value):
            raise InterchangeError(
                f"its metadata have {name} = {kept:g}, its fields {value:g} (time constants in steps); "
                "delete the metadata if the fields are right"
            )
    return params


def _rule(entries: Mapping[str, Any]) -> Rule:
    settings = dict(entries.get("rule", {"name": DEFAULT.name}))
    name = settings.pop("name", None)
    if name not in BY_NAME:
        raise InterchangeError(
            f"its metadata have the unknown learning rule {name!r}; known rules: {', '.join(BY_NAME)}"
        )
    return BY_NAME[name](**settings)
