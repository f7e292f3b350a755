import re
import warnings

import pytest
import torch

from ganfuse.engine import Trainer
from ganfuse.engine.precision import slow_type
from tests.engine.toys import ToyData, plain_game

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def say_supported(monkeypatch, answer):
    """Whether this CPU has instructions for either half type."""
    for name in ("bf16", "fp16"):
        monkeypatch.setattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", lambda: answer, raising=False)


@pytest.mark.parametrize(("name", "long_name"), [("bf16", "bfloat16"), ("fp16", "float16")])
def test_half_types_without_instructions_for_them(monkeypatch, name, long_name):
    say_supported(monkeypatch, False)
    assert f"precision={name!r}: this processor has no instructions for {long_name};" in slow_type(name, CPU)
    say_supported(monkeypatch, True)
    assert slow_type(name, CPU) == ""


def test_float32_is_never_slow(monkeypatch):
    say_supported(monkeypatch, False)
    assert slow_type("fp32", CPU) == slow_type("fp32", GPU) == ""


def test_bfloat16_on_gpus_that_emulate_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert "Tesla T4 has no instructions for bfloat16" in slow_type("bf16", GPU)
    assert slow_type("fp16", GPU) == ""


def test_the_question_may_be_missing(monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert slow_type("bf16", CPU) == ""


def test_the_trainer_warns(monkeypatch, tmp_path):
    say_supported(monkeypatch, False)
    with pytest.warns(UserWarning, match=re.escape("precision='fp32' is the faster choice")):
        Trainer(plain_game(), ToyData(), out=tmp_path / "slow", batch_size=4, device="cpu", precision="bf16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer(plain_game(), ToyData(), out=tmp_path / "fast", batch_size=4, device="cpu")
