"""Every kernel in its shipped configurations, at the named shapes, compiled for every GPU that we name.

Where an op has more shapes than fit the suite's 40 minutes, every third; `ganfuse inspect` compiles all.
"""

import pytest

pytest.importorskip("triton")

from ganfuse.kernels import inspection
from tests.kernels.compiled_kernels import check_compiled

pytestmark = [pytest.mark.compiled, pytest.mark.slow]


@pytest.mark.parametrize("target", inspection.TARGETS)
@pytest.mark.parametrize("op", inspection.OPS)
def test_no_problems(op, target):
    cases = inspection.op_cases(op)
    check_compiled(op, cases[::3] if len(cases) > 24 else cases, target)
