from benchmarks import biggan_turn, plain_biggan
from ganfuse.bench import records

TINY = [
    "--device",
    "cpu",
    "--resolution",
    "32",
    "--width",
    "1",
    "--batch",
    "2",
    "--rounds",
    "2",
    "--seconds",
    "0",
    "--bfloat16",
]


def test_agrees_measures_and_reports(tmp_path, capsys):
    out = tmp_path / "turn.jsonl"
    assert biggan_turn.main([*TINY, "--out", str(out)]) == 0
    (row,) = [row for row in records.read(out) if row["kind"] == "row"]
    assert max(row["disagreement"].values()) < 1e-10
    assert list(row["turns"]) == ["plain float32", "ganfuse float32", "plain bfloat16", "ganfuse bfloat16"]
    assert row["turns"]["plain float32"]["over_float32"] == 1
    assert all(turn["ms"] > 0 for turn in row["turns"].values())
    assert "| biggan-32/width 1/batch 2 | ganfuse bfloat16 |" in capsys.readouterr().out
    assert row["bfloat16_gain"] > 0
    assert biggan_turn.main(["--report", str(out)]) == 0
    assert f"{row['bfloat16_gain']:.2f} times as fast in bfloat16" in capsys.readouterr().out


def test_a_wrong_form_gets_no_time(tmp_path, monkeypatch, capsys):
    right = plain_biggan._DownBlock.forward
    monkeypatch.setattr(plain_biggan._DownBlock, "forward", lambda self, x: right(self, x) * 1.001)
    out = tmp_path / "turn.jsonl"
    assert biggan_turn.main([*TINY, "--out", str(out)]) == 1
    assert "wrong" in capsys.readouterr().out
    assert "turns" not in records.read(out)[-1]
