"""The string that stands for a neuron and its rule in an operator's schema."""

import dataclasses
import itertools
import math
from typing import get_args

import pytest

from tssl_triton.operators import Neuron
from tssl_triton.operators.settings import read, write
from tssl_triton.parameters import LIFParameters, Reset, Variant, WarmUp
from tssl_triton.rules import BY_NAME, SLAYER, STBP, TSSL, ResetGradient, Window

AWKWARD = (1.0, math.pi, 1 + 2**-52, 1e300, 1.1, 3)

PARAMETERS = [
    *(
        LIFParameters(reset=r, warmup=w, variant=v)
        for r, w, v in itertools.product(*map(get_args, (Reset, WarmUp, Variant)))
    ),
    *(
        LIFParameters(**{name: x})
        for name, x in itertools.product(("tau_mem", "tau_syn", "threshold", "max_slope"), AWKWARD)
    ),
    LIFParameters(tau_mem=math.inf),
]
RULES = [
    TSSL(),
    *(STBP(surrogate=w, reset_gradient=r) for w, r in itertools.product(*map(get_args, (Window, ResetGradient)))),
    *(STBP(width=x) for x in AWKWARD),
    *(SLAYER(width=x, scale=y) for x, y in itertools.pairwise(AWKWARD)),
]


@pytest.mark.parametrize("params", PARAMETERS, ids=str)
def test_there_and_back_of_every_constant(params):
    assert read(write(params)) == Neuron(params, TSSL())


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_there_and_back_of_every_rule(rule):
    params = LIFParameters(tau_mem=7.3)
    assert read(write(params, rule)) == Neuron(params, rule)


def test_every_field_is_tried():
    tried = {type(rule) for rule in RULES}
    assert tried == set(BY_NAME.values())
    for kind in (LIFParameters, *tried):
        made = [x for x in (*PARAMETERS, *RULES) if type(x) is kind]
        for field in dataclasses.fields(kind):
            assert len({getattr(x, field.name) for x in made}) > 1, field.name


@pytest.mark.parametrize("text", ["", "tau_mem=5.0", "tau_mem=5.0 rule=none", write(LIFParameters()) + " width=1.0"])
def test_a_string_of_another_origin(text):
    with pytest.raises(ValueError, match=r"(must be what operators.settings.write returns|settings of \w+ must be)"):
        read(text)
