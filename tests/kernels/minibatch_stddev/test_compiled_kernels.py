"""The kernels in their shipped configurations, compiled for GPUs that need not be there."""

import pytest

pytest.importorskip("triton")

from ganfuse.kernels import inspection
from tests.kernels.compiled_kernels import check_compiled

pytestmark = pytest.mark.compiled

OP = "minibatch_stddev"
FAST = (
    ("stylegan2 4² (512) nhwc", "sm90"),
    ("bfloat16 nchw", "sm80"),
    ("groups of 32 nchw", "gfx942"),
)


@pytest.mark.parametrize(("case", "target"), FAST)
def test_no_spills_wide_accesses(case, target):
    reports = check_compiled(OP, [case], target, least_kernels=3)
    # The appended channel alone is written element by element.
    over_groups = [report for report in reports if report.kernel != "stddev_fill"]
    assert len(over_groups) == 3
    assert all(report.widest_load == 128 for report in over_groups)


def test_launches():
    """Forward, backward, double backward (sums of partial results, by PyTorch, apart)."""
    for case in inspection.op_cases(OP):
        launches = [launch.kernel.fn.__name__ for launch in inspection.recorded(OP, case, "sm90")]
        assert launches == ["stddev_forward", "stddev_fill", "stddev_backward", "stddev_double_backward", "stddev_fill"]
