"""Occupancy as in the makers' examples, and modelled times."""

import pytest

from bench.static.hardware import A100, DEVICES, GFX942, H100, MI300X, SM80, SM90, occupancy


@pytest.mark.parametrize(
    ("registers", "warps", "expected"),
    [
        # CUDA C++ Best Practices Guide, "Calculating Occupancy": 65,536 registers, 2,048 threads.
        (32, 4, 1.0),
        (37, 4, 0.75),  # 12 blocks of 128 threads
        (37, 10, 0.625),  # 4 blocks of 320 threads, "63 %"
        (255, 4, 0.125),
    ],
)
def test_registers_limit_occupancy_as_in_nvidia_s_guide(registers, warps, expected):
    assert occupancy(SM80, registers, 0, warps) == expected


def test_shared_memory_limits_occupancy():
    # 100 KiB and the system's 1 KiB: two programs fit into 228 KiB, one into 164.
    assert occupancy(SM90, 32, 100 << 10, 4) == 2 * 4 / 64
    assert occupancy(SM80, 32, 100 << 10, 4) == 1 * 4 / 64
    assert occupancy(SM90, 16, 0, 1) == 0.5  # 32 programs of one warp, of 64 warps


@pytest.mark.parametrize(
    ("registers", "waves"), [(64, 8), (72, 7), (128, 4), (129, 3), (256, 2), (512, 1)]
)  # LLVM, getNumWavesPerEUWithNumVGPRs: 512 registers in steps of 8
def test_vector_registers_limit_waves_of_amd(registers, waves):
    assert occupancy(GFX942, registers, 0, 1) == waves / 8


def test_the_longest_of_four_times_counts():
    # 3.35 TB/s; 132 x 4 warps of 32 lanes and 132 x 16 special functions a clock of 1.98 GHz.
    assert H100.seconds(3.35e12, 1.0, 1.0) == pytest.approx(1.0)
    assert H100.seconds(1.0, 132 * 128 * 1.98e9, 1.0) == pytest.approx(1.0)
    assert H100.seconds(1.0, 1.0, 132 * 16 * 1.98e9) == pytest.approx(1.0)
    assert H100.seconds(1.0, 1.0, 1.0, 989e12 / 2, value_bytes=2) == pytest.approx(1.0)
    assert H100.seconds(1.0, 1.0, 1.0, 989e12 / 2, value_bytes=4) == pytest.approx(2.0)
    assert H100.issue_seconds(48.0) / H100.byte_seconds(6.2) == pytest.approx(0.775, abs=1e-3)
    assert MI300X.issue_seconds(304 * 64 * 2.1e9) == pytest.approx(1.0)


def test_issue_rates_are_the_makers_peaks():
    """The datasheets' float32 rates (two operations per lane), for AMD half, as without packed instructions."""
    peaks = {d.name: 2 * d.architecture.threads * d.issue * d.multiprocessors * d.clock / 1e12 for d in DEVICES}
    expected = {"A100": 39.0, "H100": 66.9, "H200": 66.9, "B200": 75.0, "MI300X": 163.4 / 2}
    # NVIDIA states 19.5 for A100: its 64 float32 lanes use two of four issue slots.
    assert peaks == pytest.approx(expected, rel=0.01)
    assert A100.source
    assert all(d.source for d in DEVICES)
