"""What every kernel folder's compile tests ask."""

from collections.abc import Sequence

from ganfuse.kernels import inspection
from ganfuse.kernels.inspection_pool import inspect_jobs


def check_compiled(op: str, cases: Sequence[str], target: str, *, least_kernels: int = 1) -> list[inspection.Report]:
    """Compile the cases for the target, in one process of their own, and fail with all problems that there are."""
    jobs = [(op, case, target) for case in cases]
    per_case = list(inspect_jobs(jobs, workers=1))
    reports = [report for some in per_case for report in some]
    bad = {f"{r.case}: {r.kernel} {r.flags} {r.config}": found for r in reports if (found := inspection.problems(r))}
    assert bad == {}
    assert min(map(len, per_case)) >= least_kernels
    return reports
