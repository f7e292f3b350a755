import torch

from benchmarks import resampling
from ganfuse.bench import records

SITES = {
    "blur": resampling.Site(3, 8, padding=(2, 2)),
    "up": resampling.Site(3, 4, up=2, padding=(2, 1), gain=4.0),
    "down": resampling.Site(3, 8, down=2),
}


def test_measures_what_is_right_and_reports_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(resampling, "SITES", SITES)
    out = tmp_path / "resampling.jsonl"
    arguments = ["--out", str(tmp_path), "--rounds", "2", "--seconds", "0.001", "--batch", "2"]
    assert resampling.main(arguments) == 0
    rows = [row for row in records.read(out.with_name("resampling-cpu.jsonl")) if row["kind"] == "row"]
    assert [row["case"] for row in rows] == [case.name for case in resampling.make_cases("cpu", 2)]
    assert all(row["ratio"] > 0 and max(row["errors"].values()) < 1e-5 for row in rows)
    assert [len(row["errors"]) for row in rows] == [1] * 6 + [2] * 6 + [3] * 6
    said = capsys.readouterr().out
    assert "| up | nchw | forward+backward+second |" in said
    assert "in the geometric mean" in said
    # Again: nothing is left to do.
    assert resampling.main(arguments) == 0


def test_a_wrong_result_gets_no_time(monkeypatch):
    monkeypatch.setattr(resampling, "SITES", SITES)
    right = resampling._ours
    monkeypatch.setattr(resampling, "_ours", lambda site, f: lambda x: right(site, f)(x) * 1.001)
    case = resampling.Case("down", "nchw", "forward+backward", "fp32", 2)
    row = resampling.measure_case(case, torch.device("cpu"), rounds=1, seconds=0.001)
    assert len(row["wrong"]) == 2
    assert "ganfuse_ms" not in row
    assert "wrong" in resampling.report([row])


def test_least_traffic():
    case = resampling.Case("blur-64x256", "nchw", "forward+backward+second", "bf16", 4)
    assert resampling._floor(case).bytes == 3 * 2 * 4 * 256 * (64**2 + 65**2)
