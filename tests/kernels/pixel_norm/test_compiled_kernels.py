"""The kernels in their shipped configurations, compiled for GPUs that need not be there."""

import pytest

pytest.importorskip("triton")

from ganfuse.kernels import inspection
from tests.kernels.compiled_kernels import check_compiled

pytestmark = pytest.mark.compiled

OP = "pixel_norm"
FAST = (
    ("progan 32² (512) nhwc", "sm90"),
    ("progan 32² (512) nchw", "sm100"),
    ("24 channels nhwc", "gfx942"),
    ("progan 64² (256) float32 nchw", "sm89"),
)


@pytest.mark.parametrize(("case", "target"), FAST)
def test_no_spills_wide_accesses(case, target):
    check_compiled(OP, [case], target, least_kernels=3)


def test_launches():
    """Forward, backward, double backward (sums of partial results, by PyTorch, apart)."""
    for case in inspection.op_cases(OP):
        launches = [launch.kernel.fn.__name__ for launch in inspection.recorded(OP, case, "sm90")]
        assert launches == ["pixel_norm_forward", "pixel_norm_backward", "pixel_norm_double_backward"]
