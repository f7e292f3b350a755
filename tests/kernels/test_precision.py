"""What float32 products may round to, and what autocast asks for."""

import pytest
import torch

from ganfuse.kernels.precision import dot_precision, to_autocast

MATMUL = torch.backends.cuda.matmul
newer = pytest.mark.skipif(not hasattr(MATMUL, "fp32_precision"), reason="this PyTorch has no fp32_precision")


pytestmark = pytest.mark.usefixtures("float32_settings")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_types_follow_no_setting(dtype):
    torch.set_float32_matmul_precision("high")
    assert dot_precision(dtype) == "ieee"


@pytest.mark.parametrize(("setting", "expected"), [("highest", "ieee"), ("high", "tf32"), ("medium", "tf32")])
def test_older_setting(setting, expected):
    torch.set_float32_matmul_precision(setting)
    assert dot_precision(torch.float32) == expected


@newer
@pytest.mark.parametrize("setting", ["ieee", "tf32"])
def test_newer_setting(setting):
    MATMUL.fp32_precision = setting
    assert dot_precision(torch.float32) == setting


@newer
def test_newer_setting_for_everything():
    before = torch.backends.fp32_precision
    MATMUL.fp32_precision = "none"
    try:
        torch.backends.fp32_precision = "tf32"
        assert dot_precision(torch.float32) == "tf32"
        torch.backends.fp32_precision = "ieee"
        assert dot_precision(torch.float32) == "ieee"
    finally:
        torch.backends.fp32_precision = before


@newer
def test_settings_that_contradict_each_other_do_not_raise():
    torch.set_float32_matmul_precision("high")
    MATMUL.fp32_precision = "ieee"
    assert dot_precision(torch.float32) == "ieee"


def test_allow_tf32():
    MATMUL.allow_tf32 = True
    assert dot_precision(torch.float32) == "tf32"
    MATMUL.allow_tf32 = False
    assert dot_precision(torch.float32) == "ieee"


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_autocast(half):
    tensors = [torch.zeros(2, dtype=dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)]
    assert all(a is b for a, b in zip(to_autocast(*tensors), tensors))
    with torch.autocast("cpu", half):
        assert [x.dtype for x in to_autocast(*tensors)] == [half, half, half, torch.float64]
        with torch.autocast("cpu", enabled=False):
            assert all(a is b for a, b in zip(to_autocast(*tensors), tensors))


def test_autocast_of_another_device_says_nothing():
    x = torch.zeros(2)
    with torch.autocast("cuda", torch.bfloat16, enabled=torch.cuda.is_available()):
        assert to_autocast(x)[0] is x


def test_meta_tensors_have_no_autocast():
    x = torch.zeros(2, device="meta")
    with torch.autocast("cpu", torch.bfloat16):
        assert to_autocast(x)[0] is x
