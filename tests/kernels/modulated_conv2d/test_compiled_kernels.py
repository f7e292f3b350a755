"""The implicit product of matrices in its shipped configurations, compiled for GPUs that need not be there."""

import pytest

pytest.importorskip("triton")

from tests.kernels.compiled_kernels import check_compiled

pytestmark = pytest.mark.compiled

# All of them, on all chips: tests/kernels/test_compiled_everywhere.py.
FAST = (("stylegan2-256 b64.conv1", "sm90"), ("24 to 40, 33²", "sm120"))


@pytest.mark.parametrize(("case", "target"), FAST)
def test_no_spills_wide_accesses_tensor_cores(case, target):
    check_compiled("modulated_conv2d", [case], target)
