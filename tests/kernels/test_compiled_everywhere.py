"""Every kernel in its shipped configurations, at every named shape, compiled for every GPU that we name."""

import pytest

pytest.importorskip("triton")

from ganfuse.kernels import inspection
from tests.kernels.compiled_kernels import check_compiled

pytestmark = [pytest.mark.compiled, pytest.mark.slow]


@pytest.mark.parametrize("target", inspection.TARGETS)
@pytest.mark.parametrize("op", inspection.OPS)
def test_no_problems(op, target):
    check_compiled(op, inspection.op_cases(op), target)
