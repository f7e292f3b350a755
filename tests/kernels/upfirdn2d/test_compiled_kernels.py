"""The kernels in their shipped configurations, compiled for GPUs that need not be there."""

import pytest

pytest.importorskip("triton")

from ganfuse.kernels import inspection
from tests.kernels.compiled_kernels import check_compiled

pytestmark = pytest.mark.compiled

OP = "upfirdn2d"
FAST = (
    ("up 128² (64) nhwc", "sm90"),
    ("blur 17² (512) float32 nchw", "sm80"),
    ("down 32² (512) nhwc", "gfx942"),
    ("5 taps 3/2 50² (24) nhwc", "sm120"),
)


@pytest.mark.parametrize(("case", "target"), FAST)
def test_no_spills_wide_accesses(case, target):
    check_compiled(OP, [case], target, least_kernels=2)


# Forward, then backward. Twelve taps multiply each output 36 times where 2 is the factor: one pass; 144 times: two.
LAUNCHES = {
    "blur 257² (64)": ["upfirdn2d_quads"] * 2,
    "down 256² (64)": ["upfirdn2d_quads"] * 2,
    "up 128² (64)": ["upfirdn2d_quads"] * 2,
    "12 taps up 128² (3) float32": ["upfirdn2d_quads"] * 3,
    "12 taps up 4 36² (96)": ["upfirdn2d_phases"] + ["upfirdn2d_quads"] * 2,
    "5 taps 3/2 50² (24)": ["upfirdn2d_phases", "upfirdn2d_quads"],
    "8 taps blur 64² (128) float32": ["upfirdn2d_phases"] * 2,
}


@pytest.mark.parametrize("name", LAUNCHES)
def test_launches(name):
    for layout in ("nhwc", "nchw"):
        launches = inspection.recorded(OP, f"{name} {layout}", "sm90")
        assert [launch.kernel.fn.__name__ for launch in launches] == LAUNCHES[name]


def test_programs():
    """As many as a large GPU wants, where the result is large enough for that."""
    for case in inspection.op_cases(OP):
        for launch in inspection.recorded(OP, case, "sm90"):
            places = launch.grid[0] * 32 * launch.num_warps
            assert launch.grid[0] >= 264 or places <= 264 * 256
            assert launch.num_warps in (1, 2, 4, 8)
