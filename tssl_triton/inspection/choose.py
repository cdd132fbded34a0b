"""The neurons of a network to trace: chosen by how much they fire, or named as ``LAYER:INDEX``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from tssl_triton.training import ConfigError

from .sparsity import SpikeCounter


def choose_neurons(spikes: Tensor, counter: SpikeCounter, count: int) -> tuple[int, ...]:
    """Indices of ``count`` neurons of a layer, from the most active one to a silent one.

    Neurons are ranked by their spikes in the sample, then by their spikes in many samples, then by index. The choice is
    spread evenly over the ranks of the neurons that fire and of the first silent one; more silent neurons are added if
    these are too few.

    Args:
        spikes: of the sample, ``(T, N)`` bool.
        counter: of many samples.
        count: number of neurons; at most N are returned.
    """
    in_sample = spikes.sum(0).tolist()
    in_many = in_sample if counter.spikes is None else counter.spikes.tolist()
    ranked = sorted(range(len(in_sample)), key=lambda n: (-in_sample[n], -in_many[n], n))
    count = min(count, len(ranked))
    firing = sum(map(bool, in_sample))
    eligible = min(max(firing + 1, count), len(ranked))
    return tuple(ranked[round(k * (eligible - 1) / max(count - 1, 1))] for k in range(count))


def position(index: int, shape: Sequence[int]) -> tuple[int, ...]:
    """Position in a layer of ``shape`` of the neuron with flat ``index``; the last axis varies fastest."""
    return tuple(int(place) for place in np.unravel_index(index, tuple(shape)))


def read_neuron(word: str) -> tuple[str, tuple[int, ...]]:
    """Parse ``"conv1:3,10,12"`` into the name of a layer and a flat index or one index per axis.

    Raises:
        ConfigError: if ``word`` has another form.
    """
    layer, colon, numbers = word.rpartition(":")
    parts = numbers.split(",")
    if not colon or not all(part.strip().isdecimal() for part in parts):
        raise ConfigError(
            "neurons must be a number of neurons per layer, or neurons as LAYER:INDEX such as full1:17 or "
            f"conv1:3,10,12; got {word!r}"
        )
    return layer, tuple(map(int, parts))


def find_neurons(
    wanted: Sequence[tuple[str, tuple[int, ...]]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Flat indices of the ``wanted`` neurons of each layer, in the given order; names ignore spaces, hyphens and case.

    Raises:
        ConfigError: if a layer or a neuron does not exist.
    """

    def normalized(name: str) -> str:
        return name.lower().replace(" ", "").replace("-", "")

    by_name = {normalized(name): name for name in shapes}
    found: dict[str, list[int]] = {name: [] for name in shapes}
    for given, index in wanted:
        name = by_name.get(normalized(given))
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
