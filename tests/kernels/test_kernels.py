"""Every kernel compiles for GPUs that are not here, whatever its options, and holds to what code alone can show."""

import os
import re

import pytest
import torch
from judging import ABLATIONS

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted in this process", allow_module_level=True)

from tssl_triton.kernels import neuron, surrogate
from tssl_triton.kernels.layout import WINDOW, checkpoint_rows
from tssl_triton.kernels.plan import LaunchPlan, forced_plan, plan_neurons

from bench.static.cases import OURS
from bench.static.compiling import TARGETS, compile_launch, launch_key
from bench.static.problem import Problem
from tssl_triton import STBP, LIFParameters
from tssl_triton.operators import layout as _layout
from tssl_triton.rules import WINDOWS

pytestmark = pytest.mark.compile_only

FORWARD, BACKWARD, OTHER_RULE = "forward", "backward", "surrogate backward"
DIRECTIONS = [FORWARD, BACKWARD, OTHER_RULE]
CASES = {case.name: case for case in OURS}
SIGMOID = STBP("sigmoid")


def launch(
    direction,
    steps,
    dtype=torch.float32,
    params=None,
    neurons=1 << 20,
    static=False,
    state=False,
    rule=SIGMOID,
    **learnt,
):
    p = Problem(steps, neurons, dtype)
    current = p.tensor(1 if static else steps)
    checkpoints = p.state(checkpoint_rows(steps))
    before = p.state(3) if state else None
    options = {"params": params or LIFParameters(), "synapse": True, **learnt}
    if direction == FORWARD:
        after = p.state(3) if state else None
        return neuron.lif_forward_launch(current, p.tensor(steps), p.words(), checkpoints, before, after, **options)
    tensors = p.tensor(steps), current, p.words(), checkpoints, before, current
    if direction == OTHER_RULE:
        return surrogate.surrogate_backward_launch(*tensors, rule=rule.surrogate_gradient, **options)
    return neuron.lif_backward_launch(*tensors, **options)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("direction", [FORWARD, BACKWARD, pytest.param(OTHER_RULE, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("steps", "options"),
    [
        (5, {"dtype": torch.bfloat16, "params": LIFParameters(reset="subtract", variant="paper", warmup="silent")}),
        (5, {"static": True, "state": True}),
    ],
)
def test_neurons_with_other_options_do_not_spill(target, direction, steps, options):
    compiled = compile_launch(launch(direction, steps, **options), target)
    assert compiled.spilled == compiled.shared == 0


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("steps", [5, 33])
def test_spikes_of_one_byte_do_not_spill(steps, target):
    p = Problem(steps, 1 << 20, torch.float32)
    spikes = p.tensor(steps, torch.uint8)
    options = {"params": LIFParameters(), "synapse": True}
    compiled = compile_launch(
        neuron.lif_forward_launch(p.tensor(steps), spikes, None, None, None, p.state(3), **options), target
    )
    assert compiled.spilled == 0


@pytest.mark.parametrize(
    "target", ["sm_90", *(pytest.param(t, marks=pytest.mark.slow) for t in TARGETS if t != "sm_90")]
)
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "window", [pytest.param(w, marks=[] if w in ("triangular", "arctan") else pytest.mark.slow) for w in WINDOWS]
)
def test_no_window_of_the_surrogate_spills(window, dtype, target):
    params = LIFParameters(reset="subtract")
    assert compile_launch(launch(OTHER_RULE, 13, dtype, params, rule=STBP(window)), target).spilled == 0


@pytest.mark.parametrize(
    "target", ["sm_90", *(pytest.param(t, marks=pytest.mark.slow) for t in TARGETS if t != "sm_90")]
)
@pytest.mark.parametrize(
    ("variant", "warmup"),
    [pytest.param(*a, marks=[] if a == ("no-leak", "off") else pytest.mark.slow) for a in ABLATIONS],
)
def test_no_ablation_spills(variant, warmup, target):
    launched = launch(BACKWARD, 32, torch.bfloat16, LIFParameters(variant=variant, warmup=warmup))
    assert compile_launch(launched, target).spilled == 0


@pytest.mark.parametrize(
    "target", ["sm_90", *(pytest.param(t, marks=pytest.mark.slow) for t in TARGETS if t != "sm_90")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("steps", [5, 32])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_learnt_constants_do_not_spill(direction, steps, dtype, target):
    p, params = Problem(steps, 1 << 20, dtype), LIFParameters(reset="subtract")
    learnt = {"constants": p.state(3)}
    if direction != FORWARD:
        learnt["grad_constants"] = p.state(3)
    assert compile_launch(launch(direction, steps, dtype, params, **learnt), target).spilled == 0


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("direction", [BACKWARD, OTHER_RULE])
def test_a_step_of_a_recurrent_layer_does_not_spill(direction, learns):
    p = Problem(1, 1 << 20, torch.float32)
    learnt = {"constants": p.state(3), "grad_constants": p.state(3)} if learns else {}
    compiled = compile_launch(launch(direction, 1, state=True, carry=p.state(2), **learnt), "sm_90")
    assert compiled.spilled == 0


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_row_offsets_are_64_bits_wide(direction):
    """A row begins at ``k N``; with N = 2^30 that passes 2^31 at k = 2."""
    ttir = compile_launch(launch(direction, 20, neurons=1 << 30), "sm_90").asm["ttir"]
    products = re.findall(r"arith\.muli (\S+), (\S+) : (\S+)", ttir)
    assert any(kind == "i64" for *_, kind in products)
    # What is multiplied in 32 bits is the number of a window, by its steps or by its rows of state: never by N.
    assert {factor for _, factor, kind in products if kind != "i64"} <= {"%c3_i32", f"%c{WINDOW}_i32"}
    # And N is widened before anything is added to it or multiplied by it.
    uses = [
        line for line in ttir.splitlines() if re.search(r"%N\b", line) and "tt.func" not in line and line[:4] != "#loc"
    ]
    assert uses
    assert all("arith.extsi" in line for line in uses), uses


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_batches_need_no_other_code(case, dtype):
    """Any number of neurons shares one kernel with all others that are multiples of 16, and one with the rest."""
    keys = [
        {launch_key(CASES[case].launch(Problem(20, neurons, dtype))) for neurons in group}
        for group in ((1 << 20, 3 << 19, 1_000_000, 2_000_016), (1_000_001, 1_234_567, 3_000_008))
    ]
    assert [len(group) for group in keys] == [1, 1]
    assert keys[0] != keys[1]


@pytest.mark.parametrize("case", CASES)
def test_longer_runs_need_no_other_code(case):
    """A run with more windows, the last of them as long, is the same program."""
    keys = {launch_key(CASES[case].launch(Problem(steps, 1 << 20, torch.float32))) for steps in (36, 100, 996)}
    assert len(keys) == 1


def test_views_of_more_than_2_to_the_31_elements():
    x = torch.empty((3, 1 << 15, 1 << 15), device="meta").transpose(1, 2)
    assert _layout.is_time_dense(x)
    assert _layout.flat(x).shape == (3, 1 << 30)
    assert _layout.flat(x).stride() == (1 << 30, 1)
    assert _layout.empty_rows(5, x, torch.float16).stride() == (1 << 30, 1, 1 << 15)
    assert plan_neurons(1 << 33).grid(1 << 33) == (1 << 33) // 512


def test_options_of_a_launch():
    """What only NVIDIA's assembler knows is not said to AMD's, whose launch would refuse it."""
    long, short = (launch(BACKWARD, steps, torch.bfloat16) for steps in (32, 8))
    assert long.options(nvidia=True) == {"num_warps": 4, "enable_fp_fusion": False, "maxnreg": 255}
    assert long.options(nvidia=False) == short.options(nvidia=True) == {"num_warps": 4, "enable_fp_fusion": False}


def test_plans():
    assert plan_neurons(1 << 20) == LaunchPlan(block=512, num_warps=4)
    assert plan_neurons(1 << 20, torch.bfloat16) == LaunchPlan(block=1024, num_warps=4)
    assert plan_neurons(100) == LaunchPlan(block=128, num_warps=1)
    assert plan_neurons(0).grid(0) == 0
    for neurons in (1, 127, 128, 129, 10**5, 10**7):
        plan = plan_neurons(neurons)
        assert plan.grid(neurons) * plan.block >= neurons > (plan.grid(neurons) - 1) * plan.block
    with forced_plan(LaunchPlan(64, 1)):
        assert plan_neurons(1 << 20).block == 64
