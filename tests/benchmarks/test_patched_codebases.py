"""The measurement of patched codebases, on a small model written in the style of one."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import patched_codebases
from benchmarks.codebase_models import CODEBASES, Codebase, Network
from tests.interop.codebase_styles import BigDiscriminator


def build(path: Path) -> list[Network]:
    return [Network("discriminator", BigDiscriminator(), (torch.randn(2, 3, 8, 8),))]


def test_measures_a_network_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CODEBASES, "biggan-pytorch", Codebase(build, True, ""))
    out = tmp_path / "rows.jsonl"
    arguments = ["biggan-pytorch", str(tmp_path), "--rounds", "2", "--out", str(out)]
    assert patched_codebases.main(arguments) == 0
    header, row = map(json.loads, out.read_text().splitlines())
    assert (header["kind"], header["benchmark"]) == ("header", "patched-codebases")
    assert set(row["errors"]) == {"result", "gradient", "gradient for the input", "second derivative"}
    assert max(row["errors"].values()) < 1e-10
    assert row["errors_in"] == "float64"
    for what in ("step", "penalty"):
        assert min(row[what]["ms"].values()) > 0
        assert min(row[what]["peak_mib"].values()) > 0
    assert patched_codebases.main(arguments) == 0, "what is there is not measured again"
    assert len(out.read_text().splitlines()) == 2
    capsys.readouterr()
    patched_codebases.main(["--report", str(out)])
    assert "| biggan-pytorch | discriminator | penalty |" in capsys.readouterr().out


def test_a_patch_that_changes_something_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(module: nn.Module, network: Network, what: str) -> list[Tensor]:
        found = original(module, network, what)
        return [value * 1.01 for value in found] if patched(module) else found

    def patched(module: nn.Module) -> bool:
        return any("_ganfuse_site" in part.__dict__ for part in module.modules())

    original = patched_codebases.run
    monkeypatch.setattr(patched_codebases, "run", wrong)
    monkeypatch.setitem(CODEBASES, "biggan-pytorch", Codebase(build, True, ""))
    out = tmp_path / "rows.jsonl"
    assert patched_codebases.main(["biggan-pytorch", str(tmp_path), "--rounds", "2", "--out", str(out)]) == 1
    row = json.loads(out.read_text().splitlines()[1])
    assert row["wrong"]
    assert "step" not in row
