"""What every kernel folder's compile tests ask."""

import functools
from collections.abc import Sequence
from pathlib import Path

from ganfuse.kernels import inspection
from ganfuse.kernels.inspection_pool import inspect_jobs
from ganfuse.kernels.inspection_snapshot import Snapshot, versions

SNAPSHOT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "compiled-kernels.json"


@functools.cache
def snapshot() -> Snapshot:
    return Snapshot.read(SNAPSHOT)


def check_compiled(op: str, cases: Sequence[str], target: str, *, least_kernels: int = 1) -> list[inspection.Report]:
    """Compile the cases for the target, in one process of their own; fail with all problems that there are, and with
    all kernels that are worse than in the snapshot.

    Another compiler gives other registers: the snapshot holds for the version that it names.
    """
    jobs = [(op, case, target) for case in cases]
    per_case = list(inspect_jobs(jobs, workers=1))
    reports = [report for some in per_case for report in some]
    bad = {f"{r.case}: {r.kernel} {r.flags} {r.config}": found for r in reports if (found := inspection.problems(r))}
    assert bad == {}
    assert min(map(len, per_case)) >= least_kernels
    if snapshot().compiled_by == versions():
        worse = [str(each) for each in snapshot().worse(reports)]
        assert worse == [], (
            f"if it is meant: ganfuse inspect --op {op} --snapshot benchmarks/results/{SNAPSHOT.name} (docs/bench.md)"
        )
    return reports
