"""The estimate of resident warps, against what the vendors' tables give."""

import pytest

from ganfuse.kernels.occupancy import MULTIPROCESSORS, occupancy


@pytest.mark.parametrize(
    ("target", "registers", "shared", "num_warps", "share"),
    [
        # 65,536 registers among 2,048 threads are 32 each.
        ("sm90", 32, 0, 4, 1.0),
        ("sm90", 33, 0, 4, 48 / 64),
        ("sm90", 128, 0, 4, 16 / 64),
        ("sm90", 255, 0, 8, 8 / 64),
        # 255 registers leave eight warps: a program of 16 does not fit.
        ("sm90", 255, 0, 16, 0.0),
        # 32 programs of one warp are half of 64 warps.
        ("sm80", 16, 0, 1, 32 / 64),
        # Two of 80 KiB, and one more KiB for each, are in 164; three of 100 + 1 are not in 228.
        ("sm80", 32, 80 * 1024, 4, 8 / 64),
        ("sm90", 32, 100 * 1024, 4, 8 / 64),
        ("sm89", 32, 99 * 1024, 4, 4 / 48),
        ("sm120", 40, 0, 4, 48 / 48),
        # 512 vector registers of a SIMD: eight waves of 64 each, four of 128.
        ("gfx942", 64, 0, 4, 1.0),
        ("gfx942", 128, 0, 4, 0.5),
        ("gfx942", 32, 64 * 1024, 4, 4 / 32),
    ],
)
def test_the_scarcest_resource_decides(target, registers, shared, num_warps, share):
    assert occupancy(target, registers=registers, shared=shared, num_warps=num_warps) == share


def test_tensor_memory_limits_programs():
    assert occupancy("sm100", registers=32, shared=0, num_warps=4, tensor_memory=256) == 8 / 64


def test_every_target_has_its_limits():
    pytest.importorskip("triton")
    from ganfuse.kernels.inspection import TARGETS

    assert MULTIPROCESSORS.keys() == TARGETS.keys()
    # A program may not take more than there is.
    assert all(TARGETS[name].shared_limit <= chip.shared for name, chip in MULTIPROCESSORS.items())
