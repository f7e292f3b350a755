"""The kernels in their shipped configurations, compiled for GPUs that need not be there."""

import pytest

pytest.importorskip("triton")

from ganfuse.kernels import inspection
from ganfuse.kernels.inspection_pool import inspect_jobs

pytestmark = pytest.mark.compiled

OP = "minibatch_stddev"
FAST = (
    ("stylegan2 4² (512) nhwc", "sm90"),
    ("bfloat16 nchw", "sm80"),
    ("groups of 32 nchw", "gfx942"),
)


def _check(case, target):
    reports = [report for some in inspect_jobs([(OP, case, target)], workers=1) for report in some]
    assert len(reports) >= 3
    bad = {f"{r.kernel} {r.config}": found for r in reports if (found := inspection.problems(r))}
    assert bad == {}
    return reports


@pytest.mark.parametrize(("case", "target"), FAST)
def test_no_spills_wide_accesses(case, target):
    reports = _check(case, target)
    # The appended channel alone is written element by element.
    over_groups = [report for report in reports if report.kernel != "stddev_fill"]
    assert len(over_groups) == 3
    assert all(report.widest_load == 128 for report in over_groups)


@pytest.mark.slow
@pytest.mark.parametrize("case", inspection.op_cases(OP))
@pytest.mark.parametrize("target", inspection.TARGETS)
def test_no_spills_wide_accesses_everywhere(target, case):
    _check(case, target)


def test_launches():
    """Forward, backward, double backward (sums of partial results, by PyTorch, apart)."""
    for case in inspection.op_cases(OP):
        launches = [launch.kernel.fn.__name__ for launch in inspection.recorded(OP, case, "sm90")]
        assert launches == ["stddev_forward", "stddev_fill", "stddev_backward", "stddev_double_backward", "stddev_fill"]
