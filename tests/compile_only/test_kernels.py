"""Every kernel compiles for GPUs that are not here, without spilling, and reads 128 bits at a time."""

import os
import re

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted in this process", allow_module_level=True)

import triton.language as tl
from compiling import GFX942, SM80, SM90, SM100, compile_kernel
from tssl_triton.kernels import neuron, packing, synapse
from tssl_triton.kernels.layout import WORD, cdiv, word_count, word_dtype
from tssl_triton.kernels.plan import LaunchPlan, forced_plan, plan_neurons

from tssl_triton import LIFParameters, _layout

pytestmark = pytest.mark.compile_only

WORD_POINTER = {torch.uint8: "*u8", torch.int16: "*i16", torch.int32: "*i32"}
BLOCK = 512
DEFAULTS = LIFParameters()


def arguments(kernel, steps, dtype="*fp32", params=DEFAULTS, neurons=1 << 20, static=False, state=False):
    full_windows = cdiv(steps, neuron.WINDOW) - 1
    common = {
        "current_ptr": dtype,
        "words_ptr": WORD_POINTER[word_dtype(steps)],
        "checkpoints_ptr": "*fp32" if full_windows else None,
        "state_ptr": "*fp32" if state else None,
        "N": neurons,
        "full_windows": full_windows,
        "SYNAPSE": True,
        "STATIC": static,
        "HAS_STATE": state,
        **neuron._program(steps, torch.float32),
        "BLOCK": BLOCK,
    }
    if kernel is neuron.lif_forward_kernel:
        own = {"spikes_ptr": dtype, "new_state_ptr": "*fp32" if state else None, "KEEP": True, "CARRY": state}
        return common | own | neuron.forward_constants(params)
    own = {"grad_spikes_ptr": dtype, "grad_current_ptr": dtype, "words": word_count(steps)}
    return common | own | neuron.backward_constants(params)


KERNELS = [neuron.lif_forward_kernel, neuron.lif_backward_kernel]


@pytest.mark.parametrize("target", [SM80, SM90, SM100, GFX942], ids=lambda target: str(target.arch))
@pytest.mark.parametrize("kernel", KERNELS, ids=["forward", "backward"])
@pytest.mark.parametrize(
    ("steps", "options"),
    [
        (5, {}),
        (5, {"dtype": "*bf16", "params": LIFParameters(reset="subtract", variant="paper", warmup="silent")}),
        (5, {"static": True, "state": True}),
    ],
)
def test_it_compiles(target, kernel, steps, options):
    compiled = compile_kernel(kernel, target, arguments(kernel, steps, **options))
    if target is GFX942:
        assert compiled.amd_spills() == 0
    else:
        resources = compiled.resources()
        assert resources["STACK"] == resources["LOCAL"] == compiled.shared == 0


@pytest.mark.parametrize("kernel", KERNELS, ids=["forward", "backward"])
def test_long_runs_compile_in_a_loop(kernel):
    short, long = (compile_kernel(kernel, SM90, arguments(kernel, steps)) for steps in (19, 999))
    assert long.resources()["STACK"] == 0
    # Seven steps in the last window against three: the code does not grow with T besides.
    assert len(long.ptx()) < 1.5 * len(short.ptx())


@pytest.mark.parametrize("kernel", KERNELS, ids=["forward", "backward"])
def test_accesses_are_128_bits_wide_where_sizes_are_aligned(kernel):
    ptx = compile_kernel(kernel, SM90, arguments(kernel, 5)).ptx()
    rows = 5 if kernel is neuron.lif_forward_kernel else 10
    assert len(re.findall(r"ld\.global\S*\.v4\.b32", ptx)) == rows
    assert len(re.findall(r"st\.global\S*\.v4\.b32", ptx)) == 5


@pytest.mark.parametrize("kernel", KERNELS, ids=["forward", "backward"])
def test_row_offsets_are_64_bits_wide(kernel):
    """A row begins at ``k N``; with N = 2^30 that passes 2^31 at k = 2."""
    ttir = compile_kernel(kernel, SM90, arguments(kernel, 20, neurons=1 << 30)).asm["ttir"]
    products = re.findall(r"arith\.muli (\S+), (\S+) : (\S+)", ttir)
    assert any(kind == "i64" for *_, kind in products)
    # What is multiplied in 32 bits is the number of a window, by its steps or by its rows of state: never by N.
    assert {factor for _, factor, kind in products if kind != "i64"} <= {"%c3_i32", f"%c{neuron.WINDOW}_i32"}
    # And N is widened before anything is added to it or multiplied by it.
    uses = [
        line for line in ttir.splitlines() if re.search(r"%N\b", line) and "tt.func" not in line and line[:4] != "#loc"
    ]
    assert uses
    assert all("arith.extsi" in line for line in uses), uses


def test_views_of_more_than_2_to_the_31_elements():
    x = torch.empty((3, 1 << 15, 1 << 15), device="meta").transpose(1, 2)
    assert _layout.is_time_dense(x)
    assert _layout.flat(x).shape == (3, 1 << 30)
    assert _layout.flat(x).stride() == (1 << 30, 1)
    assert _layout.empty_rows(5, x, torch.float16).stride() == (1 << 30, 1, 1 << 15)
    assert plan_neurons(1 << 33).grid(1 << 33) == (1 << 33) // 512


@pytest.mark.parametrize("reverse", [False, True])
def test_synaptic_filter(reverse):
    constants = {"BETA": 2 / 3, "INV_TAU_SYN": 1 / 3, "REVERSE": reverse, "ACC": tl.float32, "BLOCK": BLOCK}
    pointers = {"inputs_ptr": "*fp32", "outputs_ptr": "*fp32", "state_ptr": "*fp32"}
    for target in (SM90, GFX942):
        compiled = compile_kernel(synapse.psc_kernel, target, pointers | {"T": 100, "N": 1 << 20} | constants)
    assert compiled.amd_spills() == 0


@pytest.mark.parametrize("kernel", [packing.pack_kernel, packing.unpack_kernel], ids=["pack", "unpack"])
@pytest.mark.parametrize("dtype", ["*fp32", "*bf16"])
def test_packing(kernel, dtype):
    sizes = {"T": 100, "N": 1 << 20, "WORD": WORD, "BLOCK": BLOCK}
    for target in (SM90, GFX942):
        compile_kernel(kernel, target, {"spikes_ptr": dtype, "words_ptr": "*i32"} | sizes)


def test_plans():
    assert plan_neurons(1 << 20) == LaunchPlan(block=512, num_warps=4)
    assert plan_neurons(100) == LaunchPlan(block=128, num_warps=1)
    assert plan_neurons(0).grid(0) == 0
    for neurons in (1, 127, 128, 129, 10**5, 10**7):
        plan = plan_neurons(neurons)
        assert plan.grid(neurons) * plan.block >= neurons > (plan.grid(neurons) - 1) * plan.block
    with forced_plan(LaunchPlan(64, 1)):
        assert plan_neurons(1 << 20).block == 64
