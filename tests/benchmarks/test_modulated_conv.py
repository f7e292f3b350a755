import torch

from benchmarks import modulated_conv
from benchmarks.modulated_conv_blocks import Block, blocks, grouped
from ganfuse.bench import records


def test_blocks_are_those_of_stylegan2_256():
    assert [b.resolution for b in blocks()] == [4, 8, 16, 32, 64, 128, 256]
    assert [(b.inputs, b.outputs) for b in blocks()] == [(512, 512)] * 4 + [(512, 256), (256, 128), (128, 64)]


def test_measures_what_is_right_and_reports_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(modulated_conv, "blocks", lambda: [Block(4, 6, 6), Block(8, 6, 4)])
    arguments = ["--out", str(tmp_path), "--rounds", "2", "--seconds", "0.001", "--batch", "2", "--all"]
    assert modulated_conv.main(arguments) == 0
    out = tmp_path / "modulated-conv-cpu.jsonl"
    rows = [row for row in records.read(out) if row["kind"] == "row"]
    assert len(rows) == 2 * 2 * 4
    assert all(row["ratio_to_ganfuse"] > 0 and row["error"] < 1e-5 for row in rows)
    table = capsys.readouterr().out
    assert "| b8 | path length | ganfuse-scaled |" in table
    assert "grouped, forward+backward:" in table
    # Again: nothing is left to do.
    before = out.read_bytes()
    assert modulated_conv.main(arguments) == 0
    assert out.read_bytes() == before
    assert modulated_conv.main(["--report", str(out)]) == 0


def _setting(**options):
    timer = modulated_conv.make_timer(torch.device("cpu"))
    return modulated_conv.Setting(torch.device("cpu"), torch.float32, False, 2, timer, 1, 0.001)._replace(**options)


def test_a_wrong_result_gets_no_time(monkeypatch):
    monkeypatch.setitem(modulated_conv.PROVIDERS, "grouped", lambda *call: 1.01 * grouped(*call))
    case = modulated_conv.Case(Block(8, 6, 4), "forward+backward")
    ours, theirs = modulated_conv.measure_block(case, _setting(), False)
    assert "ms" in ours
    assert theirs["wrong"]
    assert "ms" not in theirs
    assert "wrong" in modulated_conv.report([theirs])


def test_epilogue():
    case = modulated_conv.Case(Block(8, 6, 4), "epilogue")
    rows = modulated_conv.measure_epilogue(case, _setting(), 1e9)
    assert [row["pass"] for row in rows] == ["epilogue forward", "epilogue backward"]
    assert all(row["copy_share"] > 0 for row in rows)
    assert "%" in modulated_conv.report(rows)
