"""The kernels in their shipped configurations, compiled for every GPU that we name, none of them present."""

import pytest

pytest.importorskip("triton")

from ganfuse.kernels import inspection
from ganfuse.kernels.inspection_pool import inspect_jobs

pytestmark = pytest.mark.compiled

OP = "spectral_normalize"
# What reads weights; the others read a number here and there.
HEAVY = (
    "spectral_products_down",
    "spectral_products_across",
    "spectral_write",
    "spectral_inner_products",
    "spectral_combine",
)


def _check(case, target):
    reports = [report for some in inspect_jobs([(OP, case, target)], workers=1) for report in some]
    assert {r.kernel for r in reports} >= set(HEAVY) - {"spectral_products_down"}
    for report in reports:
        assert inspection.problems(report) == [], report.kernel
        assert report.spills == 0, report.kernel
        assert report.shared <= report.shared_limit, report.kernel
        if report.kernel not in HEAVY or case == "dcgan G":
            continue
        # Half types come four at a time: gradients as dW's kernel reads them, on chips that need not join loads.
        half_only = report.kernel == "spectral_combine" and report.widest_store == 128
        assert report.widest_load >= (64 if half_only else 128), (report.kernel, report.loads)
        if report.kernel in ("spectral_write", "spectral_combine"):
            assert report.widest_store >= (64 if target == "gfx942" else 128), (report.kernel, report.stores)


@pytest.mark.parametrize("target", ["sm80", "sm90", "sm100", "gfx942"])
def test_no_spills_wide_accesses(target):
    _check("biggan-128 D bf16", target)
