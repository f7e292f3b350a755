import json

from benchmarks import performance_page, performance_summary
from tests.benchmarks.test_performance_page import CASE, HEADER, ROW


def file_of(benchmark, *rows):
    return [HEADER | {"benchmark": benchmark}, *({"kind": "row"} | row for row in rows)]


def lines_of(benchmark, *rows):
    return [performance_summary.cells(found) for found in performance_summary.comparisons(file_of(benchmark, *rows))]


def test_ops_are_compared_with_the_fastest_of_the_others_in_every_case_and_pass():
    def row(case, which, provider, ratio):
        return {"case": case, "op": "bias_act", "pass": which, "provider": provider, "ratio_to_ganfuse": ratio}

    lines = lines_of(
        "bench",
        row("a", "forward", "ganfuse", 1.0), row("a", "forward", "reference", 3.0), row("a", "forward", "other", 2.0),
        row("a", "backward", "ganfuse", 1.0), row("a", "backward", "reference", 0.9),
        row("b", "forward", "other", 4.0), row("b", "forward", "refused", None),
    )  # fmt: skip
    assert lines == [["`bias_act`", "the fastest other way", "2.00", "0.90–4.00", "3", "1"]]


def test_turns_have_a_line_for_every_way():
    turns = {
        "plain float32": {"over_same": 1.0, "over_float32": 1.0},
        "ganfuse float32": {"over_same": 1.5, "over_float32": 1.5},
        "ganfuse bfloat16": {"over_same": 1.25, "over_float32": 3.0},
    }
    assert lines_of("biggan-turn", {"case": "biggan-64", "turns": turns}) == [
        ["turn of biggan-64, float32", "plain PyTorch, float32", "1.50", "", "1", ""],
        ["turn of biggan-64, bfloat16", "plain PyTorch, bfloat16", "1.25", "", "1", ""],
        ["turn of biggan-64, bfloat16", "plain PyTorch, float32", "3.00", "", "1", ""],
    ]


def test_files_of_other_things_have_none():
    assert lines_of("ugatit-memory", {"case": "full", "weights": 1}) == []


def test_every_line_on_the_page_leads_to_its_section(tmp_path):
    header = HEADER | {"device": "AMD EPYC(R), 1 threads", "capability": "AVX2"}
    del header["cuda"]
    other = ROW | {"provider": "a|b", "ratio_to_ganfuse": 1.25}
    results = tmp_path / "bench.jsonl"
    results.write_text("".join(json.dumps(line) + "\n" for line in (header, CASE, ROW, other)))
    text = performance_page.page([results])
    assert "## Every op: AMD EPYC(R), 1 thread (AVX2)\n" in text
    link = "[AMD EPYC(R), 1 thread (AVX2)](#every-op-amd-epycr-1-thread-avx2)"
    assert f"| `bias_act` | the fastest other way | 1.25 |  | 1 |  | {link} |" in text
    assert text.index("## In short") < text.index("## Every op")
