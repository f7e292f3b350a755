import json

import pytest
import torch

from benchmarks import spectral_norm
from ganfuse.bench import records


@pytest.fixture
def small(monkeypatch):
    """Two layers, and a copy that costs nothing to measure."""
    for model in spectral_norm.MODELS:
        monkeypatch.setitem(spectral_norm.MODELS, model, lambda ch: [(4, ch, 3, 3), (1, 4)])
    ceilings = spectral_norm.measure_ceilings.__globals__["Ceilings"](1e9, {}, None)
    monkeypatch.setattr(spectral_norm, "measure_ceilings", lambda *_: ceilings)


def test_measures_what_is_right_and_reports_it(small, tmp_path, capsys):
    arguments = ["--device", "cpu", "--ch", "8", "--rounds", "2", "--seconds", "0.001"]
    assert spectral_norm.main([*arguments, "--out", str(tmp_path)]) == 0
    path = tmp_path / "spectral-norm-cpu.jsonl"
    rows = [row for row in records.read(path) if row["kind"] == "row"]
    assert [(row["model"], row["implementation"]) for row in rows] == [
        (model, name)
        for model in spectral_norm.MODELS
        for name in (spectral_norm.OURS, spectral_norm.HOOK, spectral_norm.PARAMETRIZATION)
    ]
    for row in rows:
        assert row["status"] == "ok"
        assert row["layers"] == 2
        assert row["parameters"] == 4 * 8 * 9 + 4
        # Wᵀu, Wv, W/σ; ⟨G, W⟩, G again, dW: eight passes, and vectors.
        assert row["floor_bytes"] == (4 + 4) * 4 * row["parameters"] + 3 * 4 * (4 + 72 + 1 + 4)
        assert row["copy_share"] == pytest.approx(row["floor_bytes"] / row["ms"] / 1e6, rel=1e-2)
    assert rows[0]["ratio_to_ganfuse"] == 1
    printed = capsys.readouterr().out
    assert printed.count("at least 1.5 times as fast as torch.nn.utils") == 4
    assert spectral_norm.main(["--report", str(path)]) == 0
    assert capsys.readouterr().out in printed


def test_a_wrong_result_gets_no_time(small, tmp_path, monkeypatch):
    original = spectral_norm.spectral_normalize

    def broken(weights, *args, **kwargs):
        outputs, sigmas = original(weights, *args, **kwargs)
        return outputs if weights[0].dtype == torch.float64 else [1.01 * x for x in outputs], sigmas

    monkeypatch.setattr(spectral_norm, "spectral_normalize", broken)
    out = tmp_path / "rows.jsonl"
    assert (
        spectral_norm.main(["--device", "cpu", "--ch", "8", "--rounds", "2", "--seconds", "0", "--out", str(out)]) == 0
    )
    rows = {row["implementation"]: row for row in map(json.loads, out.read_text().splitlines()) if row["kind"] == "row"}
    assert rows[spectral_norm.OURS]["reason"].startswith("wrong: relative error 0.01")
    assert "ms" not in rows[spectral_norm.OURS]
    assert rows[spectral_norm.HOOK]["ratio_to_ganfuse"] is None


def test_every_implementation_computes_the_same():
    """Also the forms that are timed on GPUs only."""
    shapes = [(6, 5, 3, 3), (3, 7), (1, 4)]
    found = spectral_norm.errors(shapes, torch.device("cpu"))
    assert max(found.values()) < 1e-5
    weights = [torch.randn(shape) for shape in shapes]
    made = spectral_norm.providers(weights, gpu=True)
    assert set(made) == {"ganfuse", "ganfuse bf16", spectral_norm.COMPILED, spectral_norm.HOOK,
                         spectral_norm.PARAMETRIZATION}  # fmt: skip
    for a, b in zip(made["ganfuse bf16"].normalise(), made["ganfuse"].normalise()):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a, b.bfloat16(), rtol=1e-2, atol=1e-3)


def test_without_a_gpu(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert spectral_norm.main(["--device", "cuda"]) == 2
    assert "no GPU" in capsys.readouterr().err
