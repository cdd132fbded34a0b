"""Counting instructions in hand-written listings, and in a kernel with a known number of loads."""

import os

import pytest

from bench.static.counting import Loop, UnexplainedLoopsError, count, natural_loops
from bench.static.listing import EXIT, parse


def sass(*instructions):
    """A listing as cuobjdump prints it, 16 bytes an instruction."""
    lines = ["\t\tFunction : kernel"]
    for n, instruction in enumerate(instructions):
        guard, rest = instruction.split(" ", 1) if instruction.startswith("@") else ("", instruction)
        lines.append(f"        /*{16 * n:04x}*/  {guard:>5} {rest} ;    /* 0x000000000000794d */")
        lines.append("                                              /* 0x000fea0003800000 */")
    return "\n".join(lines)


# A loop over 4 iterations at once, then one over single iterations, each skipped if it has none.
UNROLLED = sass(
    "S2R R0, SR_TID.X",  # 00
    "@!P1 BRA 0x80",  # 10: fewer than four
    "LDG.E.128 R4, desc[UR4][R2.64]",  # 20
    "LDG.E.128 R8, desc[UR4][R2.64+0x10]",
    "LDG.E.128 R12, desc[UR4][R2.64+0x20]",
    "LDG.E.128 R16, desc[UR4][R2.64+0x30]",
    "MUFU.RCP R4, R4",
    "@P1 BRA 0x20",  # 70
    "@!P2 BRA 0xc0",  # 80: no rest
    "LDG.E.128 R4, desc[UR4][R2.64]",  # 90
    "FADD R4, R4, R4",
    "@P2 BRA 0x90",  # b0
    "@!P0 EXIT",  # c0: masked off
    "STG.E.64 desc[UR4][R2.64], R4",
    "EXIT",
    "BRA 0xf0",  # f0: padding
    "NOP",
)


@pytest.mark.parametrize(
    ("trips", "instructions", "special", "loads"),
    [
        (0, 6, 0, 0),
        (1, 6 + 3, 0, 1),
        (4, 6 + 6, 1, 4),
        (11, 6 + 2 * 6 + 3 * 3, 2, 11),
    ],
)
def test_an_unrolled_loop(trips, instructions, special, loads):
    counts = count(parse(UNROLLED), [Loop(trips, size=16 * 128)], threads=128)
    assert counts.instructions == counts.vector == instructions
    assert counts.special == special
    assert counts.accesses.get(("load", 16), 0) == loads
    assert counts.accesses["store", 8] == 1
    assert counts.bytes == 16 * loads + 8


def test_blocks_and_loops():
    blocks = parse(UNROLLED)
    assert natural_loops(blocks) == {1: {1}, 3: {3}}
    assert [b.successors for b in blocks[:5]] == [(1, 2), (2, 1), (3, 4), (4, 3), (5, EXIT)]


def test_nested_loops_multiply():
    listing = sass(
        "MOV R1, R2",
        "FADD R4, R4, R4",  # 10: steps
        "HMMA.16816.F32 R4, R8, R12, R4",  # 20: tiles
        "@P0 BRA 0x20",
        "@P1 BRA.U 0x10",
        "EXIT",
    )
    counts = count(parse(listing), [Loop(5, 0, inner=(Loop(7, 0),))], threads=32)
    assert counts.instructions == 1 + 5 * (1 + 7 * 2 + 1) + 1


def test_the_longer_of_two_paths_counts():
    listing = sass("@P0 BRA 0x40", "FADD R1, R1, R1", "FADD R1, R1, R1", "BRA 0x50", "FMUL R1, R1, R1", "EXIT")
    assert count(parse(listing), [], threads=32).instructions == 1 + 3 + 1


def test_called_slow_paths_do_not_count():
    listing = sass("@!P0 BRA 0x20", "CALL.REL.NOINC 0x30", "EXIT", "FMUL R1, R1, R1", "RET.REL.NODEC R2 0x0")
    assert count(parse(listing), [], threads=32).instructions == 3


def test_loops_missing_in_the_source():
    with pytest.raises(UnexplainedLoopsError):
        count(parse(UNROLLED), [], threads=128)


AMDGCN = """
	.amdgcn_target "amdgcn-amd-amdhsa--gfx942"
kernel:
.Lfunc_begin0:
	s_load_dwordx2 s[2:3], s[0:1], 0x0
	s_branch .LBB0_0
.LBB0_0:
	.loc	1 37 9 is_stmt 1                ; file.py:37:9
	v_mov_b32_e32 v0, 0
.LBB0_1:                                ; =>This Inner Loop Header: Depth=1
	global_load_dwordx4 v[2:5], v[0:1], off
	v_exp_f32_e32 v2, v2
	buffer_store_short v2, v17, s[24:27], 0 offen
	s_cbranch_scc1 .LBB0_1
; %bb.2:
	s_endpgm
.Lfunc_end0:
"""


def test_assembly_for_amd():
    counts = count(parse(AMDGCN), [Loop(3, size=18 * 64)], threads=64)
    assert counts.instructions == 3 + 3 * 4 + 1
    assert counts.vector == 1 + 3
    assert counts.special == 3
    assert counts.accesses == {("load", 16): 3, ("store", 2): 3}


@pytest.mark.compile_only
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted in this process")
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
@pytest.mark.parametrize("trips", [1, 6])
def test_a_kernel_with_known_loads(target, trips):
    pytest.importorskip("triton")
    from kernels_of_tests import row_sum_launch

    from bench.static.compiling import compile_launch
    from bench.static.hardware import ARCHITECTURES

    launch = row_sum_launch(trips, 1 << 14, "meta")
    threads = launch.num_warps * ARCHITECTURES[target].threads
    block = launch.arguments["BLOCK"]
    compiled = compile_launch(launch, target)
    counts = count(parse(compiled.listing), [Loop(trips, size=4 * block)], threads)
    assert counts.bytes * threads == 4 * block * (trips + 1)
    assert compiled.spilled == compiled.shared == 0
