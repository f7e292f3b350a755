"""The kernels in their shipped configurations, compiled for GPUs that need not be there."""

import pytest

pytest.importorskip("triton")

from ganfuse.kernels import inspection
from ganfuse.kernels.inspection_pool import inspect_jobs

pytestmark = pytest.mark.compiled

OP = "pixel_norm"
FAST = (
    ("progan 32² (512) nhwc", "sm90"),
    ("progan 32² (512) nchw", "sm100"),
    ("24 channels nhwc", "gfx942"),
    ("progan 64² (256) float32 nchw", "sm89"),
)


def _check(case, target):
    reports = [report for some in inspect_jobs([(OP, case, target)], workers=1) for report in some]
    assert len(reports) >= 3
    bad = {f"{r.kernel} {r.config}": found for r in reports if (found := inspection.problems(r))}
    assert bad == {}
    return reports


@pytest.mark.parametrize(("case", "target"), FAST)
def test_no_spills_wide_accesses(case, target):
    _check(case, target)


@pytest.mark.slow
@pytest.mark.parametrize("case", inspection.op_cases(OP))
@pytest.mark.parametrize("target", inspection.TARGETS)
def test_no_spills_wide_accesses_everywhere(target, case):
    _check(case, target)


def test_launches():
    """Forward, backward, double backward (sums of partial results, by PyTorch, apart)."""
    for case in inspection.op_cases(OP):
        launches = [launch.kernel.fn.__name__ for launch in inspection.recorded(OP, case, "sm90")]
        assert launches == ["pixel_norm_forward", "pixel_norm_backward", "pixel_norm_double_backward"]
