"""The error budget of the backward kernel's approximate units, tried without a device.

A GPU computes the reciprocal root and the power of two approximately; under the interpreter both are exact to float32.
Here the interpreter's results are pushed away from the truth by as much as NVIDIA's instruction set promises at worst
(PTX ISA, rsqrt.approx.f32: 2^-22.9 relative, ex2.approx.f32: 2^-22), up or down at random, and the gradient must
still be within the tolerance that float32 has everywhere else.
"""

import numpy as np
import pytest
from judging import SURROGATE_RULES, assert_agrees, draw_current, draw_gradient, judge, run

from tssl_triton import LIFParameters

pytestmark = pytest.mark.interpret

WORST = {"rsqrt": 2**-22.9, "exp2": 2**-22}


@pytest.fixture
def approximate(monkeypatch):
    """Make the interpreter's rsqrt and exp2 as wrong as the hardware may be; returns the number of calls of each."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    rng = np.random.default_rng(0)
    calls = dict.fromkeys(WORST, 0)

    def pushed(name, exact):
        def compute(self, argument):
            calls[name] += 1
            handle = exact(self, argument)
            sign = rng.choice([-1.0, 1.0], size=handle.data.shape)
            data = handle.data.astype(np.float64) * (1 + sign * WORST[name])
            return TensorHandle(data.astype(handle.data.dtype), handle.dtype)

        return compute

    for name in WORST:
        monkeypatch.setattr(
            InterpreterBuilder, f"create_{name}", pushed(name, getattr(InterpreterBuilder, f"create_{name}"))
        )
    return calls


@pytest.mark.parametrize("warmup", ["psc", "silent", "off"])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("steps", [5, 33])
def test_the_gradient_stays_within_the_tolerance_of_float32(approximate, steps, reset, warmup):
    params = LIFParameters(reset=reset, warmup=warmup)
    y, grad = draw_current((steps, 3, 41)).float(), draw_gradient((steps, 3, 41)).float()
    assert_agrees(run(y, grad, params), judge(y, grad, params), y.dtype)
    assert approximate["rsqrt"] >= steps
    assert approximate["exp2"] >= (0 if warmup == "off" else steps)


@pytest.mark.parametrize("rule", SURROGATE_RULES[2:], ids=lambda rule: rule.surrogate_gradient.window)
@pytest.mark.parametrize("steps", [5, pytest.param(33, marks=pytest.mark.slow)])
def test_so_does_that_of_every_surrogate(approximate, steps, rule):
    y, grad = draw_current((steps, 3, 41)).float(), draw_gradient((steps, 3, 41)).float()
    assert_agrees(run(y, grad, LIFParameters(), rule=rule), judge(y, grad, LIFParameters(), rule=rule), y.dtype)
    assert sum(approximate.values()) >= steps
