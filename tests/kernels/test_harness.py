"""The harness itself: poison, GPU report."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "expression",
    [
        "torch.empty(3)",
        "torch.empty(2, dtype=torch.float16)",
        "torch.empty_like(x)",
        "torch.empty_strided((2,), (1,))",
        "x.new_empty(4)",
        "x.new_empty_strided((2,), (1,))",
    ],
)
def test_what_ganfuse_leaves_unwritten_is_nan(expression):
    x = torch.zeros(2)
    assert eval(expression, {"__name__": "ganfuse.kernels.anything", "torch": torch, "x": x}).isnan().all()


def test_others_and_integers_are_left_alone():
    assert torch.empty(3, dtype=torch.int64).dtype == torch.int64
    names = {"__name__": "ganfuse.x", "torch": torch}
    assert eval("torch.empty(2, dtype=torch.int32)", names).dtype == torch.int32
    assert eval("torch.empty(2, device='meta')", names).is_meta


def test_device_contexts_still_work():
    with torch.device("meta"):
        assert torch.empty(3).is_meta
        assert torch.nn.Linear(2, 3).weight.is_meta


def test_gpu_report_lists_every_gpu_test(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("here the GPU tests run, and make gpu writes the report")
    path = tmp_path / "folder" / "report.json"
    file = "tests/kernels/feature_attention/test_gpu_runtime.py"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", file]
    subprocess.run([*command, "--gpu-report", str(path)], cwd=ROOT, capture_output=True, check=True)
    report = json.loads(path.read_text())
    reported = {re.sub(r"\[.*", "", test["name"].split("::")[1]) for test in report["tests"]}
    assert reported == set(re.findall(r"^def (test_\w+)", (ROOT / file).read_text(), re.MULTILINE))
    assert report["counts"] == {"skipped": len(report["tests"])}
    assert report["torch"] == torch.__version__
    assert report["device"] is None
    assert any("torch.cuda.is_available() is False" in test["message"] for test in report["tests"])
