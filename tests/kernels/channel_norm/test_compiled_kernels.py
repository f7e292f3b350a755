"""The norms' kernels in their shipped configurations, compiled for every GPU that we name, none of them present."""

import pytest

pytest.importorskip("triton")

from ganfuse.kernels import inspection
from tests.kernels.compiled_kernels import check_compiled

pytestmark = pytest.mark.compiled

OP = "channel_norm"
# Each chip, each layout and kind of norm once; the rest is for the slow suite.
FAST = (
    ("sm80", "ugatit-256 adalin 256 64² nchw"),
    ("sm89", "group norm 256 32² silu nhwc"),
    ("sm90", "biggan-128 192 64² nhwc"),
    ("sm90", "stylegan-256 epilogue 512 32² nhwc"),
    ("gfx942", "stylegan-256 epilogue 512 8² nhwc"),
    ("sm89", "stylegan-256 epilogue 256 64² nchw"),
    ("sm100", "stylegan-256 64 256² nchw"),
    ("sm120", "in silu 24 40² nhwc"),
    ("gfx942", "biggan-128 768 16² nchw"),
)


@pytest.mark.parametrize(("target", "case"), FAST)
def test_no_spills_and_wide_accesses(target, case):
    check_compiled(OP, [case], target, least_kernels=3 if "epilogue" in case else 8)


def test_what_a_norm_is_not_asked_for_is_asked_of_others():
    report = inspection.Report("op", "case", "sm90", "kernel", loads={128: 1}, stores={32: 2}, shared_limit=1)
    assert inspection.problems(report) == ["no tensor-core instruction", "widest store 32 bits"]
    report.expects_matrix_instruction, report.writes_sums_only = False, True
    assert inspection.problems(report) == []
