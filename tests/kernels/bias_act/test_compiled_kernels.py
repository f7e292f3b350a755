"""The kernels in their shipped configurations, compiled for GPUs that need not be there."""

import pytest

pytest.importorskip("triton")

from ganfuse.kernels import inspection
from tests.kernels.compiled_kernels import check_compiled

pytestmark = pytest.mark.compiled

OP = "bias_act"
FAST = (
    ("stylegan2-256 64² (256) nhwc", "sm90"),
    ("stylegan2-256 64² (256) nchw", "sm80"),
    ("swish 64² (96) nhwc", "gfx942"),
    ("softplus 64² (24) nhwc", "sm120"),
)


@pytest.mark.parametrize(("case", "target"), FAST)
def test_no_spills_wide_accesses(case, target):
    check_compiled(OP, [case], target, least_kernels=3)


def test_launches():
    """Forward, backward, double backward (sums of partial results, by PyTorch, apart)."""
    for case in inspection.op_cases(OP):
        launches = [launch.kernel.fn.__name__ for launch in inspection.recorded(OP, case, "sm90")]
        assert launches == ["bias_act_forward", "bias_act_gradient", "bias_act_gradient"]
