import torch

from benchmarks import folded_convs
from ganfuse.bench import records
from ganfuse.kernels.resampled_conv2d import eager


def test_measures_what_is_right_and_reports_it(tmp_path, monkeypatch, capsys):
    made = [case for case in folded_convs.cases(2, 2, ["float32"]) if case.side == 4]
    assert {(case.what, case.way, case.layout) for case in made} >= {
        ("block", "up", "channels_last"),
        ("block", "down", "channels_last"),
        ("conv", "up", "nchw"),
        ("conv", "down", "channels_last"),
    }
    monkeypatch.setattr(folded_convs, "cases", lambda *_: [c for c in made if c.batch <= 64])
    arguments = ["--out", str(tmp_path), "--rounds", "2", "--seconds", "0.001"]
    threads = torch.get_num_threads()
    assert folded_convs.main(arguments) == 0
    assert torch.get_num_threads() == threads == 1
    out = tmp_path / "folded-convs-cpu.jsonl"
    rows = [row for row in records.read(out) if row["kind"] == "row"]
    assert [row["case"] for row in rows] == [case.name for case in made if case.batch <= 64]
    assert all(row["ratio"] > 0 for row in rows)
    assert {row["takes"] for row in rows} == {"plain", "folded"}
    table = capsys.readouterr().out
    assert "| up block | 2, 32 → 32, 4×4 | channels_last | float32 |" in table
    assert "float32 blocks by the rule: geometric mean" in table
    # Again: nothing is left to do.
    before = out.read_bytes()
    assert folded_convs.main(arguments) == 0
    assert out.read_bytes() == before
    assert folded_convs.main(["--report", str(out)]) == 0


def test_a_wrong_result_gets_no_time(monkeypatch):
    original = eager.upsample_conv2d
    monkeypatch.setattr(eager, "upsample_conv2d", lambda *args: original(*args) * 1.01)
    for what in ("block", "conv"):
        case = folded_convs.Case(what, "up", 2, 3, 4, 4, "nchw", "float32")
        row = folded_convs.measure_case(case, torch.device("cpu"), rounds=1, seconds=0.001)
        assert row["wrong"]
        assert "ratio" not in row
    assert "wrong: 0: relative error" in folded_convs.report([row])
