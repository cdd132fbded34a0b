"""A neuron and its learning rule as one string, which a schema can carry, and back. ::

"tau_mem=5.0 tau_syn=3.0 threshold=1.0 reset=zero max_slope=8.0 warmup=psc variant=released rule=stbp width=1.0 ..."
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import BY_NAME, DEFAULT, Rule


class Neuron(NamedTuple):
    """Constants of the neurons and their learning rule."""

    params: LIFParameters
    rule: Rule = DEFAULT


def write(params: LIFParameters, rule: Rule = DEFAULT) -> str:
    """The string that `read` reads."""
    return f"{params.text} rule={rule.name} {rule.text}".rstrip()


@functools.lru_cache(maxsize=256)
def read(text: str) -> Neuron:
    """The neuron that `write` wrote.

    Raises:
        TypeError, ValueError: for a string that it did not write.
    """
    neuron, _, rule = text.partition(" rule=")
    name, *settings = rule.split(" ")
    if name not in BY_NAME:
        raise ValueError(f"neuron must be what operators.settings.write returns, got {text!r}")
    return Neuron(_made(LIFParameters, neuron.split(" ")), _made(BY_NAME[name], settings))


def _made(kind: type[Any], settings: list[str]) -> Any:
    """The dataclass with these ``name=value`` settings, each of the type of its default."""
    types: dict[str, Any] = {field.name: type(field.default) for field in dataclasses.fields(kind)}
    given = dict(setting.split("=", 1) for setting in settings)
    if given.keys() != types.keys():
        raise ValueError(f"settings of {kind.__name__} must be {', '.join(types)}, got {', '.join(given)}")
    return kind(**{name: types[name](value) for name, value in given.items()})
