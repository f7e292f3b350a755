from benchmarks import plain_stylegan2, stylegan2_turn
from ganfuse.bench import records

TINY = [
    "--device",
    "cpu",
    "--resolution",
    "16",
    "--width",
    "2",
    "--features",
    "6",
    "--batch",
    "4",
    "--rounds",
    "2",
    "--seconds",
    "0",
]


def test_agrees_measures_and_reports(tmp_path, capsys):
    out = tmp_path / "turn.jsonl"
    assert stylegan2_turn.main([*TINY, "--out", str(out)]) == 0
    (row,) = [row for row in records.read(out) if row["kind"] == "row"]
    assert len(row["disagreement"]) == 8
    assert max(row["disagreement"].values()) < 1e-10
    assert list(row["forms"]) == ["ganfuse", "plain demodulated", "plain grouped"]
    ours = row["forms"]["ganfuse"]
    assert ours["turn_over_ganfuse"] == 1
    weighted = sum(share * ours["phases"][phase]["ms"] for phase, share in stylegan2_turn.SHARES.items())
    assert abs(weighted - ours["turn_ms"]) < 1e-3 * weighted
    assert "| stylegan2-16/width 2/batch 4 | plain grouped |" in capsys.readouterr().out
    assert stylegan2_turn.main(["--report", str(out)]) == 0


def test_a_wrong_form_gets_no_time(tmp_path, monkeypatch, capsys):
    right = plain_stylegan2.dense
    monkeypatch.setattr(plain_stylegan2, "dense", lambda *args, **options: right(*args, **options) * 1.001)
    out = tmp_path / "turn.jsonl"
    assert stylegan2_turn.main([*TINY, "--out", str(out)]) == 1
    assert "wrong" in capsys.readouterr().out
    assert "forms" not in records.read(out)[-1]
