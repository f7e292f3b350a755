"""The attention kernels in their shipped configurations, compiled for every GPU that we name, none of them present."""

import pytest

pytest.importorskip("triton")

from ganfuse.kernels import inspection
from ganfuse.kernels.inspection_pool import inspect_jobs

pytestmark = pytest.mark.compiled

OP = "feature_attention"
# Fused and split forms, both layouts, rows that are not 16 bytes apart; the rest of the cases is for the slow suite.
FAST = (
    "sagan-128 32² (32,128) nhwc",
    "sagan-128 64² (16,64) nchw",
    "biggan-128 D (12,48) nhwc",
    "biggan-128 G (24,96) nchw",
    "(64,256) nhwc",
    "(256,512) nchw",
)


def _check(case, target):
    reports = [report for some in inspect_jobs([(OP, case, target)], workers=1) for report in some]
    assert len(reports) >= 5
    bad = {f"{r.kernel} {r.flags} {r.config}": found for r in reports if (found := inspection.problems(r))}
    assert bad == {}


@pytest.mark.parametrize("case", FAST)
@pytest.mark.parametrize("target", inspection.TARGETS)
def test_no_spills_tensor_cores_wide_accesses(target, case):
    _check(case, target)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in inspection.op_cases(OP) if case not in FAST])
@pytest.mark.parametrize("target", inspection.TARGETS)
def test_no_spills_tensor_cores_wide_accesses_everywhere(target, case):
    _check(case, target)
