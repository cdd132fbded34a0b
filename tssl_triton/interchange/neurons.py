"""A population of neurons as a NIR node, and back. ::

    CubaLIF   tau_syn dI/dt = -I + w_in S,  tau_mem dv/dt = v_leak - v + R I,  spike where v > v_threshold
    LIF       the second equation alone, with S in place of I; here a neuron without synapse

A step of forward Euler, dt seconds long, whose membrane sees the synaptic current of the same step, is::

    I[t] = (1 - dt/tau_syn) I[t-1] + w_in dt/tau_syn S[t]
    v[t] = (1 - dt/tau_mem) v[t-1] + R dt/tau_mem I[t]        v_leak = 0

which is eqs. (3) and (4) where the node's time constants are ours times dt, R is tau_mem in steps and w_in is 1.
Other R and w_in multiply the weighted input by ``gain = w_in R dt / tau_mem``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tssl_triton._extras import require
from tssl_triton.cpu.learnt import CONSTANTS
from tssl_triton.nn.weighted import LIF
from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import BY_NAME, DEFAULT, Rule

from .errors import InterchangeError
from .metadata import attached, entries_of

if TYPE_CHECKING:
    import nir

SINGLE = 2.0**-22
"""Relative error of a number that was worked out in single precision, as other programs' constants often are."""

EXECUTION = ("recompute", "fused")
"""Settings of a weighted layer that change how it is computed, not what."""


class Neurons(NamedTuple):
    """What a neuron node says."""

    params: LIFParameters
    synapse: bool
    """Whether the node filters its input."""
    gain: float
    """Factor on the weighted input; 1 in nodes of this package, unless a pooling left it its scale."""
    rule: Rule
    execution: dict[str, Any]
    """Those of `EXECUTION` that the node's metadata give."""


def neuron_node(layer: LIF, shape: tuple[int, ...], dt: float, w_in: float = 1.0) -> nir.NIRNode:
    """The node of a layer's neurons, ``shape`` without time and batch; the layer's weights are no part of it.

    Args:
        layer: the neurons.
        shape: of one step of one sample; NIR gives each neuron constants of its own.
        dt: seconds per time step.
        w_in: factor on the input; 1 unless something before the node is to be made up for.

    Raises:
        ValueError: for neurons without leak, which have no such node.
    """
    nodes = require("nir", "interchange", "writing a NIR graph")
    constants = _constants(layer, shape)
    params = layer.params
    if layer.constants is not None:
        # A file has no layers that learn: what is learnt by now becomes what the layer is, where one number says it.
        shared = {name: float(values.flat[0]) for name, values in constants.items() if np.ptp(values) == 0}
        params = dataclasses.replace(params, **shared)  # type: ignore[arg-type]
    if math.isinf(params.tau_mem):
        raise ValueError("neurons without leak (tau_mem = inf) are no CubaLIF, whose time constants are finite")
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
    """Time constants in steps and threshold of each neuron, as they are now."""
    found = {name: np.full(shape, getattr(layer.params, name)) for name in CONSTANTS}
    if layer.constants is not None:
        for name, value in layer.constants()._asdict().items():
            if value is not None:
                found[name] = np.broadcast_to(value.detach().cpu().double().numpy(), shape).copy()
    return found


def read_neurons(node: nir.NIRNode, shape: tuple[int, ...], dt: float) -> Neurons:
    """The constants of a CubaLIF or LIF node whose neurons all have the same ones.

    Args:
        node: the node.
        shape: what arrives at it, without time and batch.
        dt: seconds per time step.

    Raises:
        InterchangeError: if this package has no such neurons, or the node's metadata contradict its fields.
    """
    synapse = hasattr(node, "tau_syn")
    names = ("tau_mem", "tau_syn", "w_in") if synapse else ("tau",)
    fields = {name: _same_for_all(node, name, shape) for name in (*names, "r", "v_leak", "v_threshold", "v_reset")}
    for name in ("v_leak", "v_reset"):
        if fields[name] != 0:
            raise InterchangeError(f"{name} is {fields[name]:g}; the neurons of this package leak and reset to 0")
    entries = entries_of(node)
    steps = {"tau_mem": _steps("tau_mem" if synapse else "tau", fields, dt)}
    if synapse:
        steps["tau_syn"] = _steps("tau_syn", fields, dt)
    params = _params(steps | {"threshold": fields["v_threshold"]}, entries)
    gain = fields.get("w_in", 1.0) * fields["r"] / params.tau_mem
    # What single precision cannot tell from 1 is 1: weights then pass through unrounded.
    gain = 1.0 if abs(gain - 1.0) <= SINGLE else gain
    return Neurons(params, synapse, gain, _rule(entries), entries.get("execution", {}))


def _same_for_all(node: nir.NIRNode, name: str, shape: tuple[int, ...]) -> float:
    values = np.asarray(getattr(node, name), dtype=np.float64)
    if values.size != 1 and values.shape != shape:
        raise InterchangeError(f"{name} has shape {values.shape}, its input {shape}")
    if values.min() != values.max():
        raise InterchangeError(
            f"{name} differs between neurons, {values.min():g} to {values.max():g}; a layer has one value for all"
        )
    return float(values.flat[0])


def _steps(name: str, fields: Mapping[str, float], dt: float) -> float:
    """A time constant in steps; a whole number where single precision cannot tell it from one."""
    steps = fields[name] / dt
    nearest = round(steps) if math.isfinite(steps) else steps
    steps = float(nearest) if abs(steps - nearest) <= SINGLE * abs(steps) else steps
    if not 1 <= steps < math.inf:
        raise InterchangeError(
            f"{name} is {fields[name]:g} s, {steps:g} time steps of {dt:g} s; it must be finite and at least one step"
        )
    return steps


def _params(fields: Mapping[str, float], entries: Mapping[str, Any]) -> LIFParameters:
    """The constants of the node's fields; those of its metadata where they are the same to single precision."""
    if "params" not in entries:
        # Without a synaptic filter the current is the input itself, as it is with a time constant of one step.
        return LIFParameters(**({"tau_syn": 1.0} | dict(fields)))  # type: ignore[arg-type]
    params = LIFParameters(**entries["params"])
    for name, value in fields.items():
        kept = getattr(params, name)
        if abs(kept - value) > SINGLE * abs(value):
            raise InterchangeError(
                f"its metadata say {name} = {kept:g}, its fields {value:g} (time constants in steps); "
                "take the metadata away if the fields are right"
            )
    return params


def _rule(entries: Mapping[str, Any]) -> Rule:
    settings = dict(entries.get("rule", {"name": DEFAULT.name}))
    name = settings.pop("name", None)
    if name not in BY_NAME:
        raise InterchangeError(f"its metadata name the learning rule {name!r}; known are {', '.join(BY_NAME)}")
    return BY_NAME[name](**settings)
