"""The kernels in their shipped configurations, compiled for GPUs that need not be there."""

import pytest

pytest.importorskip("triton")

from ganfuse.kernels import inspection
from ganfuse.kernels.inspection_pool import inspect_jobs

pytestmark = pytest.mark.compiled

OP = "bias_act"
FAST = (
    ("stylegan2-256 64² (256) nhwc", "sm90"),
    ("stylegan2-256 64² (256) nchw", "sm80"),
    ("swish 64² (96) nhwc", "gfx942"),
    ("softplus 64² (24) nhwc", "sm120"),
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
        assert launches == ["bias_act_forward", "bias_act_gradient", "bias_act_gradient"]
