"""``pytest bench --benchmark-only``: the neuron, a layer and networks, training and inference."""

import pytest

from bench.sweep.contenders import CONTENDERS, OURS
from bench.sweep.works import INFERENCE, LIF, TRAINING, Size, work

MODES = pytest.mark.parametrize("mode", [TRAINING, INFERENCE])


def run(benchmark, what, mode, name, size):
    step = work(what, mode, CONTENDERS[name], size, "tssl")
    step()
    benchmark(step)


@MODES
@pytest.mark.parametrize("name", [OURS, "plain"])
@pytest.mark.parametrize("steps", [5, 20])
def test_lif(benchmark, mode, name, steps):
    run(benchmark, LIF, mode, name, Size(steps, 10, 25_088))


@MODES
@pytest.mark.parametrize("name", [OURS, "plain"])
def test_linear(benchmark, mode, name):
    run(benchmark, "linear", mode, name, Size(5, 50, 512))


@MODES
@pytest.mark.parametrize("name", [OURS, "plain"])
@pytest.mark.parametrize("network", ["mnist", "fashion-mnist"])
def test_network(benchmark, mode, name, network):
    run(benchmark, network, mode, name, Size(5, 50, None))
