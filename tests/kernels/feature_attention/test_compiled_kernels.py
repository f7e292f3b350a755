"""The attention kernels in their shipped configurations, compiled for every GPU that we name, none of them present."""

import pytest

pytest.importorskip("triton")

from ganfuse.kernels import inspection
from tests.kernels.compiled_kernels import check_compiled

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
# The chips that most have get all of them, the others a fused form in either layout.
PAIRS = [
    (target, case) for target in inspection.TARGETS for case in (FAST if target in ("sm80", "sm90") else FAST[1:3])
]


@pytest.mark.parametrize(("target", "case"), PAIRS)
def test_no_spills_tensor_cores_wide_accesses(target, case):
    check_compiled(OP, [case], target, least_kernels=5)
