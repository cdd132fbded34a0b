"""Which neurons of a network to look at: chosen by how much they fire, or named as ``LAYER:INDEX``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from tssl_triton.training.config import ConfigError

from .sparsity import SpikeCounter


def choose_neurons(spikes: Tensor, counter: SpikeCounter, count: int) -> tuple[int, ...]:
    """Indices of ``count`` neurons of a layer: from the most active one over the middle to a silent one.

    Neurons are ranked by their spikes in the sample, then by those in many samples, then by index. The choice is spread
    evenly over the ranks of those that fire and of the first that does not; more silent ones join if that is too few.

    Args:
        spikes: of the sample, ``(T, N)`` bool.
        counter: of many samples.
        count: how many, N at most.
    """
    own = spikes.sum(0).tolist()
    many = own if counter.spikes is None else counter.spikes.tolist()
    ranked = sorted(range(len(own)), key=lambda n: (-own[n], -many[n], n))
    fired = sum(1 for spikes_of_one in own if spikes_of_one)
    count = min(count, len(ranked))
    eligible = min(max(fired + 1, count), len(ranked))
    places = [round(k * (eligible - 1) / max(count - 1, 1)) for k in range(count)]
    return tuple(ranked[place] for place in places)


def position(index: int, shape: Sequence[int]) -> tuple[int, ...]:
    """Where the neuron of a flat ``index`` stands in a layer of ``shape``, the last axis running fastest."""
    return tuple(int(place) for place in np.unravel_index(index, tuple(shape)))


def read_neuron(word: str) -> tuple[str, tuple[int, ...]]:
    """``"conv1:3,10,12"`` as a layer's name and one number, or one per axis.

    Raises:
        ConfigError: for anything else.
    """
    layer, colon, numbers = word.rpartition(":")
    parts = numbers.split(",")
    if not colon or not all(part.strip().isdecimal() for part in parts):
        raise ConfigError(
            "neurons must be how many of each layer, or which, as LAYER:INDEX such as full1:17 or conv1:3,10,12; "
            f"got {word!r}"
        )
    return layer, tuple(map(int, parts))


def find_neurons(
    wanted: Sequence[tuple[str, tuple[int, ...]]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Flat indices of each layer's ``wanted`` neurons, in the order given; spaces and case of names do not matter.

    Raises:
        ConfigError: for a layer or a neuron that is not there.
    """
    by_name = {_spelling(name): name for name in shapes}
    found: dict[str, list[int]] = {name: [] for name in shapes}
    for given, index in wanted:
        name = by_name.get(_spelling(given))
        if name is None:
            raise ConfigError(f"neurons: there is no layer {given!r}; layers are {', '.join(by_name)}")
        shape = shapes[name]
        sizes = (math.prod(shape),) if len(index) == 1 else shape
        if len(index) != len(sizes) or any(place >= size for place, size in zip(index, sizes, strict=True)):
            grid = f", or {len(shape)} numbers below {', '.join(map(str, shape))}" if len(shape) > 1 else ""
            got = ",".join(map(str, index))
            raise ConfigError(f"neurons: {name} has neurons 0 to {math.prod(shape) - 1}{grid}; got {got}")
        flat = int(np.ravel_multi_index(index, sizes))
        if flat not in found[name]:
            found[name].append(flat)
    return {name: tuple(indices) for name, indices in found.items()}


def _spelling(name: str) -> str:
    return name.lower().replace(" ", "").replace("-", "")
