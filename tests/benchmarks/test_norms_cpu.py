import torch

from benchmarks import norms_cpu
from ganfuse.bench import records


def test_measures_what_is_right_and_reports_it(tmp_path, monkeypatch, capsys):
    cases = [
        norms_cpu.Case(norm, (2, 4, 4), "nchw", passes, dtype)
        for norm in norms_cpu.NORMS
        for passes in norms_cpu.PASSES
        for dtype in norms_cpu.TYPES
    ]
    monkeypatch.setattr(norms_cpu, "CASES", cases)
    out = tmp_path / "norms.jsonl"
    arguments = ["--out", str(out), "--rounds", "2", "--seconds", "0.001"]
    threads = torch.get_num_threads()
    assert norms_cpu.main(arguments) == 0
    assert torch.get_num_threads() == threads == 1
    rows = [row for row in records.read(out) if row["kind"] == "row"]
    assert [row["case"] for row in rows] == [case.name for case in cases]
    most = {"float32": 1e-5, "bfloat16": 0.1}
    assert all(row["ratio"] > 0 and row["error"] < most[row["dtype"]] for row in rows)
    table = capsys.readouterr().out
    assert "| adalin+relu | 2×4×4×4 | nchw | float32 | forward+backward+second |" in table
    # Again: nothing is left to do.
    before = out.read_bytes()
    assert norms_cpu.main(arguments) == 0
    assert out.read_bytes() == before
    assert norms_cpu.main(["--report", str(out)]) == 0


def test_a_wrong_result_gets_no_time(monkeypatch):
    ours, plain = norms_cpu.NORMS["adain"]

    def broken(x, gain, bias, rho):
        y = ours(x, gain, bias, rho)
        return y if x.dtype == torch.float64 else y * 1.01

    monkeypatch.setitem(norms_cpu.NORMS, "adain", (broken, plain))
    row = norms_cpu.measure_case(
        norms_cpu.Case("adain", (2, 4, 4), "nchw", "forward+backward"), rounds=1, seconds=0.001
    )
    assert row["wrong"]
    assert "ganfuse_ms" not in row
    assert "wrong" in norms_cpu.report([row])
