"""What the machine code of the fused layers must keep to: tensor cores, no spills, wide accesses, few bytes."""

import itertools
import os
import re
from functools import partial

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted in this process", allow_module_level=True)

from tssl_triton.kernels.fused import spike_weighted_launch
from tssl_triton.kernels.layout import checkpoint_rows, word_count, word_dtype
from tssl_triton.kernels.plan import TilePlan, plan_tiles, plan_weight_gradient

from bench.static.cases import FUSED, Layer
from bench.static.compiling import TARGETS, compile_launch, launch_key
from bench.static.examined import Setting, examine
from bench.static.problem import DTYPES, Problem
from bench.static.traffic import Request, count_traffic
from tssl_triton import LIFParameters

pytestmark = pytest.mark.compile_only

LAYERS = {"linear": Layer(1, 1), "conv 3x3": Layer(3, 8), "conv 5x5": Layer(5, 8)}
TENSOR_CORES = {"sm_80": r"\bHMMA", "sm_90": r"\bHGMMA", "sm_100": r"\bUTCHMMA", "gfx942": "v_mfma_f32"}


def forward(layer, p, *, bias=False, words=True, spikes=False, current=False, checkpoints=False, state=False):
    """A launch with the outputs that are named."""
    return spike_weighted_launch(
        layer.inputs(p),
        layer.weight(p),
        torch.zeros(layer.channels(p), dtype=p.dtype, device=p.device) if bias else None,
        layer.rows(p, word_count(p.steps), word_dtype(p.steps)) if words else None,
        layer.rows(p, p.steps, p.dtype) if spikes else None,
        layer.rows(p, p.steps, p.dtype) if current else None,
        p.state(checkpoint_rows(p.steps)) if checkpoints else None,
        p.state(3) if state else None,
        p.state(3) if state else None,
        steps=p.steps,
        geometry=layer.geometry(),
        params=LIFParameters(),
    )


#: The fewest outputs ask for the fewest registers, and the assembler may then save too many of them.
PRODUCTS = {
    "forward": partial(forward, bias=True, spikes=True, current=True, checkpoints=True),
    "forward with state": partial(forward, spikes=True, current=True, checkpoints=True, state=True),
    "forward, recompute": partial(forward),
    "forward, recompute with spikes": partial(forward, spikes=True),
    "forward, inference": partial(forward, words=False, spikes=True),
    "weight gradient": Layer.weight_gradient,
}


def settings():
    """All targets, types and lengths of word; by default what shows the bars in each kind of kernel."""
    few = {
        ("linear", "forward", "bf16", 5, "sm_80"),
        ("linear", "forward", "fp16", 40, "sm_90"),
        ("linear", "forward", "fp32", 5, "sm_90"),
        ("conv 3x3", "forward", "bf16", 5, "sm_90"),
        ("conv 3x3", "forward", "bf16", 40, "sm_100"),
        ("conv 5x5", "forward", "fp16", 12, "sm_90"),
        ("conv 5x5", "forward", "bf16", 5, "gfx942"),
        ("linear", "forward, recompute", "bf16", 40, "sm_80"),
        ("linear", "weight gradient", "bf16", 5, "sm_90"),
        ("conv 3x3", "weight gradient", "fp16", 40, "sm_80"),
        ("conv 3x3", "weight gradient", "fp32", 5, "sm_90"),
        ("conv 5x5", "weight gradient", "bf16", 5, "sm_100"),
        ("linear", "weight gradient", "bf16", 40, "gfx942"),
    }
    for each in itertools.product(LAYERS, PRODUCTS, DTYPES, (1, 5, 12, 40), TARGETS):
        yield pytest.param(*each, marks=[] if each in few else [pytest.mark.slow])


def odd_settings():
    """All layers, outputs and types, with channels that fill no tile or let nothing be aligned."""
    few = {
        (300, "conv 5x5", "forward with state", "bf16", 5, "sm_90"),
        (300, "conv 5x5", "forward with state", "fp32", 5, "sm_80"),
        (10, "linear", "forward, recompute", "bf16", 5, "sm_80"),
    }
    sizes = [(10, layer) for layer in LAYERS] + [(32, "linear")] + [(300, layer) for layer in LAYERS]
    for size, *rest in itertools.product(sizes, PRODUCTS, ("fp32", "bf16"), (5, 40), TARGETS):
        each = (*size, *rest)
        yield pytest.param(*each, marks=[] if each in few else [pytest.mark.slow])


@pytest.mark.parametrize(("channels", "layer", "product", "dtype", "steps", "target"), list(odd_settings()))
def test_odd_sizes_do_not_spill(channels, layer, product, dtype, steps, target):
    class Odd(Layer):
        def channels(self, p):
            return channels

    layer = Odd(LAYERS[layer].kernel, LAYERS[layer].size)
    launch = PRODUCTS[product](layer, Problem(steps, channels << 10, DTYPES[dtype]))
    assert compile_launch(launch, target).spilled_to_memory == 0


@pytest.mark.parametrize(("layer", "product", "dtype", "steps", "target"), list(settings()))
def test_no_spills_and_tensor_cores_in_16_bits(layer, product, dtype, steps, target):
    launch = PRODUCTS[product](LAYERS[layer], Problem(steps, 1 << 20, DTYPES[dtype]))
    compiled = compile_launch(launch, target)
    if compiled.nvidia:
        assert compiled.spilled == 0
    else:
        # Scalars that do not fit into scalar registers wait in lanes of vector registers, not in memory.
        assert compiled.spilled_to_memory == 0
    if dtype != "fp32":
        assert re.search(TENSOR_CORES[target], compiled.listing)
    elif compiled.nvidia:
        # Exact: no tensor core rounds the operands of float32.
        assert not re.search(TENSOR_CORES[target], compiled.listing)


@pytest.mark.parametrize("case", ["spike_linear forward", "spike_conv2d 3x3 forward", "spike_linear weight gradient"])
@pytest.mark.parametrize("steps", [5, 40])
def test_accesses_are_128_bits_wide_in_16_bits(case, steps):
    code = examine(Setting(case, steps, "bf16", "sm_90"))
    assert code.loads.keys() == {16}
    assert code.stores.keys() == {16}


@pytest.fixture(scope="module")
def traffic():
    """Bytes by argument, counted by one interpreting process."""
    counted = itertools.product([case.name for case in FUSED if "5x5" not in case.name], (5, 12), ("fp16",))
    return count_traffic([Request(*each) for each in counted])


@pytest.mark.parametrize("steps", [5, 12])
@pytest.mark.parametrize("case", [case for case in FUSED if "5x5" not in case.name], ids=lambda case: case.name)
def test_no_byte_moves_that_need_not(traffic, case, steps):
    """y and bits out, bits in; checkpoints of long runs and what all samples share are counted apart."""
    problem = Problem(steps, case.few_neurons, torch.float16)
    moved = {
        name: t.distinct / (steps * problem.neurons) for name, t in traffic[Request(case.name, steps, "fp16")].items()
    }
    for apart in (case.checkpoints, *case.shared):
        moved.pop(apart, None)
    assert sum(moved.values()) <= 1.02 * case.compulsory(problem)
    if case.name.endswith("forward"):
        inputs = moved.pop("inputs_ptr")
        assert inputs == pytest.approx(problem.word_bytes)
        assert sum(moved.values()) <= 2.3


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("product", PRODUCTS)
def test_other_batches_and_longer_runs_need_no_other_code(layer, product):
    def keys(sizes, steps):
        problems = [Problem(t, (size << 4) * LAYERS[layer].size ** 2, torch.bfloat16) for size in sizes for t in steps]
        return {launch_key(PRODUCTS[product](FixedLayer(LAYERS[layer]), p)) for p in problems}

    assert len(keys((128, 256, 400), (33, 100, 999))) == 1


class FixedLayer(Layer):
    """A layer of 16 channels whatever the batch."""

    def __init__(self, layer):
        super().__init__(layer.kernel, layer.size)

    def channels(self, p):
        return 16


def test_plans():
    assert plan_tiles(512, 512, torch.bfloat16, torch.uint8) == TilePlan(64, 64, 64, num_warps=8, num_stages=3)
    assert plan_tiles(512, 512, torch.bfloat16, torch.int32).block_k == 32
    assert plan_tiles(512, 512, torch.bfloat16, torch.int32, carried=True).block_n == 32
    assert plan_tiles(10, 300, torch.float16, torch.uint8).block_n == 16
    assert plan_tiles(300, 512, torch.bfloat16, torch.uint8) == TilePlan(32, 32, 32, num_warps=8, num_stages=2)
    assert plan_tiles(512, 300, torch.bfloat16, torch.uint8).block_n == 32
    assert plan_tiles(512, 512, torch.float32, torch.uint8).block_m == 32
    weight = torch.empty(64, 64, 1, 1, device="meta")
    assert plan_weight_gradient(10, weight, torch.bfloat16).shares == 1
    plan = plan_weight_gradient(1 << 20, weight, torch.bfloat16)
    assert plan.shares == 64
    assert plan_weight_gradient(1 << 20, torch.empty(1024, 1024, 3, 3, device="meta"), torch.bfloat16).shares == 1
