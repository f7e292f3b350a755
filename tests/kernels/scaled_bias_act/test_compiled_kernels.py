"""The kernels in their shipped configurations, compiled for GPUs that need not be there."""

import pytest

pytest.importorskip("triton")

from ganfuse.kernels import inspection
from tests.kernels.compiled_kernels import check_compiled

pytestmark = pytest.mark.compiled

OP = "scaled_bias_act"
# All of them, on all chips: tests/kernels/test_compiled_everywhere.py.
FAST = (("epilogue 256² (64) nhwc", "sm90"), ("epilogue 33² (24) nhwc", "gfx942"))


@pytest.mark.parametrize(("case", "target"), FAST)
def test_no_spills_wide_accesses(case, target):
    check_compiled(OP, [case], target, least_kernels=3)


def test_launches():
    """Forward, backward, double backward (sums of partial results, by PyTorch, apart)."""
    for case in inspection.op_cases(OP):
        launches = [launch.kernel.fn.__name__ for launch in inspection.recorded(OP, case, "sm90")]
        assert launches == ["epilogue_forward", "epilogue_backward", "epilogue_double_backward"]
