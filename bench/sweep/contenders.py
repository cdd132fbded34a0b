"""What a user would pick instead: other packages' neurons, and the same recurrence written in plain PyTorch.

Each is set up as its documentation does it, with the constants of `LIFParameters` and reset to zero, and takes the
currents ``(T, B, *)`` of a layer to its spikes. Only ``plain`` and ``dense`` compute the same gradient as this package;
the others are other neurons, which learn by a surrogate gradient: `Contender.differs` says how.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import torch
from torch import Tensor

from tssl_triton import LIFParameters, lif
from tssl_triton.rules import RULES

from .baselines import dense_lif, eager_lif

Neurons = Callable[[Tensor], Tensor]
"""A layer of neurons without weights: currents ``(T, B, *)`` to spikes ``(T, B, *)``."""

OURS = "tssl-triton"


@dataclass(frozen=True)
class Contender:
    """One way to have a layer of spiking neurons.

    Args:
        name: as tables have it.
        make: neurons from constants and the name of a learning rule, which only this package's has a choice of.
        differs: in what it does other work than this package's neuron; nothing if it does the same.
        longest: most time steps it is run with; None for any.
        bytes_out: whether it makes spikes of one byte, which have no gradient and no product: it runs as a neuron alone
            and for inference.
    """

    name: str
    make: Callable[[LIFParameters, str], Neurons]
    differs: str = ""
    longest: int | None = None
    bytes_out: bool = False


def _ours(params: LIFParameters, rule: str, dtype: torch.dtype | None = None) -> Neurons:
    return lambda current: lif(current, params, rule=rule, dtype=dtype)


def _plain(params: LIFParameters, rule: str) -> Neurons:
    return lambda current: eager_lif(current, params)


def _dense(params: LIFParameters, rule: str) -> Neurons:
    return lambda current: dense_lif(current, params)


def _spikingjelly(params: LIFParameters, rule: str, synapse: bool = False) -> Neurons:
    activation = "spikingjelly.activation_based"
    functional, layer, neuron = (import_module(f"{activation}.{name}") for name in ("functional", "layer", "neuron"))
    layers = [neuron.LIFNode(float(params.tau_mem), decay_input=False, v_threshold=params.threshold, step_mode="m")]
    if synapse:
        layers.insert(0, layer.SynapseFilter(float(params.tau_syn), step_mode="m"))
    network = torch.nn.Sequential(*layers)

    def forward(current: Tensor) -> Tensor:
        functional.reset_net(network)
        return network(current)

    return forward


def _spikingjelly_compiled(params: LIFParameters, rule: str) -> Neurons:
    functional = import_module("spikingjelly.activation_based.functional")
    surrogate = import_module("spikingjelly.activation_based.surrogate")
    constants = float(params.tau_mem), False, params.threshold, 0.0, surrogate.Sigmoid()

    def forward(current: Tensor) -> Tensor:
        return functional.lif_multi_step(current, torch.zeros_like(current[0]), *constants)[0]

    return torch.compile(forward)


def _snntorch(params: LIFParameters, rule: str) -> Neurons:
    snntorch = import_module("snntorch")
    node = snntorch.Synaptic(alpha=params.beta, beta=params.alpha, threshold=params.threshold, reset_mechanism="zero")

    def forward(current: Tensor) -> Tensor:
        if node.threshold.device != current.device:
            node.to(current.device)
        synapse, membrane = node.reset_mem()
        spikes = []
        for y in current:
            spike, synapse, membrane = node(y, synapse, membrane)
            spikes.append(spike)
        return torch.stack(spikes)

    return forward


def _norse(params: LIFParameters, rule: str) -> Neurons:
    norse = import_module("norse.torch")
    per_second = 1000.0  # its time step is a millisecond
    constants = norse.LIFParameters(
        tau_syn_inv=torch.tensor(per_second / params.tau_syn),
        tau_mem_inv=torch.tensor(per_second / params.tau_mem),
        v_th=torch.tensor(params.threshold),
    )
    node = norse.LIF(constants)
    return lambda current: node(current)[0]


OTHER_SYNAPSE = "synapse not scaled by 1/tau_syn; surrogate gradient"

CONTENDERS: dict[str, Contender] = {
    each.name: each
    for each in (
        Contender(OURS, _ours),
        Contender(f"{OURS}, bool", partial(_ours, dtype=torch.bool), bytes_out=True),
        Contender("plain", _plain),
        Contender("dense", _dense, longest=100),
        Contender("spikingjelly", _spikingjelly, "no synapse; surrogate gradient"),
        Contender(
            "spikingjelly+synapse",
            partial(_spikingjelly, synapse=True),
            "surrogate gradient",
        ),
        Contender(
            "spikingjelly+compile",
            _spikingjelly_compiled,
            "no synapse; surrogate gradient",
            longest=32,
        ),
        Contender("snntorch", _snntorch, OTHER_SYNAPSE),
        Contender("norse", _norse, OTHER_SYNAPSE),
    )
}


def available(names: list[str]) -> tuple[list[Contender], list[str]]:
    """Contenders of these names that can be imported, and a line for each that cannot."""
    found, missing = [], []
    for name in names:
        try:
            CONTENDERS[name].make(LIFParameters(), RULES[0])
        except ImportError as error:
            missing.append(f"no rows for {name}: {error}; pip install -e '.[peers]'")
        else:
            found.append(CONTENDERS[name])
    return found, missing
