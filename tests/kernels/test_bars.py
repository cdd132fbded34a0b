"""What the machine code of every kernel must keep to: no spills, wide accesses, few instructions, as few bytes.

By default a part of the grid that shows each bar in each kind of kernel; ``-m slow`` takes all of it, every target,
type and number of steps.
"""

import functools
import os

import pytest

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted in this process", allow_module_level=True)

from bench.static.cases import OURS
from bench.static.command import STEPS
from bench.static.compiling import compile_launch
from bench.static.examined import Setting, examine, issue_use
from bench.static.hardware import ARCHITECTURES, H100
from bench.static.problem import DTYPES, Problem
from bench.static.traffic import Request, count_traffic

pytestmark = pytest.mark.compile_only

CASES = {case.name: case for case in OURS}
SURROGATES = ("stbp backward", "stbp backward, sigmoid", "slayer backward")
TSSL = ("lif forward", "lif backward", "lif backward, no warm-up")
NEURONS = (*TSSL, *SURROGATES)

MOST_INSTRUCTIONS = {
    "lif forward": 14.0,
    "lif backward": 48.0,
    "lif backward, no warm-up": 34.0,
    "stbp backward": 30.0,
    "stbp backward, sigmoid": 34.0,
    "slayer backward": 24.0,
}
"""SASS instructions per neuron-step, sm_90, T = 5, 8, 32."""

MOST_ISSUE_USE = 0.92
"""Of the time to move the bytes, on H100 in 16 bits: what issuing the instructions may take."""

MOST_EXTRA_BYTES = 0.02
"""Above the compulsory bytes, checkpoints of long runs apart."""

examined = functools.cache(examine)


def grid(cases, steps, dtypes, targets):
    return [Setting(c, t, d, target) for c in cases for t in steps for d in dtypes for target in targets]


def both(part, whole):
    """``part`` by default, the rest of ``whole`` marked slow."""
    return [pytest.param(s, id=name(s)) for s in part] + [
        pytest.param(s, id=name(s), marks=pytest.mark.slow) for s in whole if s not in part
    ]


def name(setting):
    return f"{setting.case.replace(', ', ' ').replace(' ', '-')}-T{setting.steps}-{setting.dtype}-{setting.target}"


ALL = grid(CASES, STEPS, DTYPES, ARCHITECTURES)
FEW = [
    *grid((*TSSL, "stbp backward"), (5, 32), ("bf16",), ("sm_90",)),
    *grid(TSSL, (5,), ("fp32",), ("sm_80", "sm_90", "sm_100", "gfx942")),
    *grid(("stbp backward",), (5,), ("fp32",), ("gfx942",)),
    *grid(("slayer backward",), (32,), ("fp32",), ("sm_90",)),
    *grid(("psc", "psc reverse", "pack", "unpack"), (5, 100), ("fp32", "bf16"), ("sm_90",)),
    *grid(("psc", "pack", "unpack"), (5,), ("bf16",), ("gfx942",)),
]


@pytest.mark.parametrize("setting", both(FEW, ALL))
def test_nothing_spills(setting):
    assert examined(setting).spilled == 0


SMALL = [(setting, num_warps) for setting in grid(CASES, (5, 8, 13, 32), DTYPES, ARCHITECTURES) for num_warps in (1, 2)]
FEW_SMALL = grid(("lif backward, no warm-up",), (32,), ("fp16",), ("sm_80", "sm_90"))


@pytest.mark.parametrize(
    ("setting", "num_warps"),
    [pytest.param(s, w, id=f"{name(s)}-{w}", marks=[] if s in FEW_SMALL else pytest.mark.slow) for s, w in SMALL],
)
def test_nothing_spills_in_small_layers(setting, num_warps):
    """Their programs have fewer warps, and the assembler then chooses registers by another rule."""
    neurons = 32 * num_warps * (8 if setting.dtype != "fp32" else 4) * 300
    launch = CASES[setting.case].launch(Problem(setting.steps, neurons, DTYPES[setting.dtype]))
    assert launch.num_warps == num_warps
    assert compile_launch(launch, setting.target).spilled == 0


@pytest.mark.parametrize("setting", both(FEW, ALL))
def test_bulk_accesses_are_128_bits_wide(setting):
    """All but the packed words of short runs, of which a thread has 4 or 8 bytes. AMD's layouts make it 64 bits."""
    code = examined(setting)
    wide = 16 if setting.target != "gfx942" else 8
    narrow = [n for accesses in (code.loads, code.stores) for width, n in accesses.items() if width < wide]
    assert sum(narrow) <= 1
    assert sum((code.loads | code.stores).values()) > sum(narrow)


@pytest.mark.parametrize("setting", both(FEW, ALL))
def test_the_counted_instructions_move_the_counted_bytes(setting):
    """The trip counts of loops are right: machine code and interpreter agree on the bytes.

    The path rule counts a word that is stored, or loaded, every fourth window each time: up to 7 eighths of a byte.
    """
    code = examined(setting)
    problem = Problem(setting.steps, 16, DTYPES[setting.dtype])
    expected = CASES[setting.case].compulsory(problem)
    if setting.case in NEURONS:
        expected += problem.checkpoint_bytes
    assert expected * 0.98 <= code.bytes <= expected * 1.02 + (0.875 if setting.steps > 8 else 0)


BARRED = grid(NEURONS, (5, 8, 32), DTYPES, ("sm_90",))


@pytest.mark.parametrize("setting", both([s for s in BARRED if s in FEW], BARRED))
def test_instructions_per_neuron_step(setting):
    assert examined(setting).instructions <= MOST_INSTRUCTIONS[setting.case]


SIXTEEN_BITS = grid(NEURONS, (5, 8, 32), ("fp16", "bf16"), ("sm_90",))


@pytest.mark.parametrize("setting", both([s for s in SIXTEEN_BITS if s in FEW], SIXTEEN_BITS))
def test_memory_is_the_limit_on_h100(setting):
    problem = Problem(setting.steps, 16, DTYPES[setting.dtype])
    moved = CASES[setting.case].compulsory(problem) + problem.checkpoint_bytes
    assert issue_use(H100, moved, examined(setting).instructions) <= MOST_ISSUE_USE


@pytest.mark.parametrize(
    "case",
    ["lif forward", "lif backward", pytest.param("stbp backward", marks=pytest.mark.slow), "psc", "pack", "unpack"],
)
def test_code_does_not_grow_beyond_32_steps(case):
    """Nor does the time to compile it, of which most is proportional to its size."""
    short, long = (examined(Setting(case, steps, "fp32", "sm_90")).code_bytes for steps in (32, 96))
    assert long <= 1.03 * short


COUNTED = [(5, "fp32"), (5, "fp16"), (20, "fp32")]


@pytest.fixture(scope="module")
def traffic():
    """Bytes by argument, of all kernels, counted by one interpreting process."""
    return count_traffic([Request(case, *counted) for case in CASES for counted in COUNTED])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("steps", "dtype"), COUNTED)
def test_no_byte_moves_that_need_not(traffic, case, steps, dtype):
    kernel = CASES[case]
    problem = Problem(steps, kernel.few_neurons, DTYPES[dtype])
    moved = traffic[Request(case, steps, dtype)]
    counted = {name: t.distinct / (steps * problem.neurons) for name, t in moved.items()}
    checkpoints = counted.pop(kernel.checkpoints, 0.0)
    if case in NEURONS:
        assert checkpoints == pytest.approx(problem.checkpoint_bytes)
    assert sum(counted.values()) <= (1 + MOST_EXTRA_BYTES) * kernel.compulsory(problem)
