import json

import pytest

from benchmarks import performance_page

HEADER = {
    "kind": "header", "benchmark": "bench", "device": "a GPU", "torch": "2.13", "triton": "3.7", "python": "3.12",
    "commit": "0123456789abcdef", "date": "2026-01-01T00:00:00", "command": "ganfuse bench", "cuda": "13.0",
}  # fmt: skip
CASE = {
    "kind": "case", "case": "c", "op": "bias_act", "shapes": "sagan-128", "site": "here", "sizes": {"side": 8},
    "dtype": "bf16", "layout": "nchw",
}  # fmt: skip
ROW = {
    "kind": "row", "case": "c", "provider": "ganfuse", "pass": "forward", "status": "ok", "ms": 1.25, "p20_ms": 1.2,
    "p80_ms": 1.5, "gb_s": 321.0, "copy_share": 0.87, "peak_bytes": 2**21, "launches": 1, "energy_mj": 3.5,
}  # fmt: skip
WRONG = {"kind": "row", "case": "c", "provider": "a|b", "pass": "forward", "status": "wrong", "reason": "0: off"}


def test_every_number_on_the_page_has_its_device_and_versions(tmp_path):
    results, out = tmp_path / "bench-a.jsonl", tmp_path / "page.md"
    results.write_text("".join(json.dumps(line) + "\n" for line in (HEADER, CASE, ROW, WRONG)))
    assert performance_page.main(["--results", str(results), "--out", str(out)]) == 0
    text = out.read_text()
    assert "## Every op: a GPU" in text
    assert "a GPU, PyTorch 2.13, Triton 3.7, commit 0123456789ab, 2026-01-01, Python 3.12" in text
    row = "| **ganfuse** | forward | 1.25 | 1.2–1.5 |  | 321 | 87% |  |  | 2.0 | 1 | 3.5 |"
    assert f"| sagan-128 here bf16 nchw {row}" in text
    assert "| a/b | forward | wrong: 0: off |" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in tables}) == 1


def test_a_benchmark_without_a_report_gets_a_table_of_what_it_has(tmp_path):
    results = tmp_path / "new.jsonl"
    row = {"kind": "row", "case": "c", "ms": 1.23456, "shape": [1, 2], "detail": None}
    results.write_text("".join(json.dumps(line) + "\n" for line in (HEADER | {"benchmark": "new-thing"}, row)))
    text = performance_page.page([results])
    assert "## New thing: a GPU" in text
    assert "| case | ms | detail |" in text
    assert "| c | 1.235 |  |" in text


def test_training_steps_come_after_ops_and_pictures_do_not_come_at_all(tmp_path):
    case = {"kind": "case", "case": "t", "op": "training", "model": "sagan", "sizes": {"batch": 4}}
    row = {
        "kind": "row", "case": "t", "provider": "default", "pass": "step", "status": "ok", "ms": 40.0, "p20_ms": 39.0,
        "p80_ms": 41.0, "images_per_second": 100.0, "held_bytes": 2**20, "peak_bytes": 2**21, "ours_share": 0.25,
        "launches": 1200, "busy_share": 0.5, "energy_j": 9.0, "profiled_ms": 2.0, "groups": {"convolutions": 2.0},
    }  # fmt: skip
    files = []
    for name, lines in (("train", (case, row)), ("bench", (CASE, ROW)), ("gallery", ({"kind": "run"},))):
        files.append(tmp_path / f"{name}.jsonl")
        header = HEADER | {"benchmark": name}
        files[-1].write_text("".join(json.dumps(line) + "\n" for line in (header, *lines)))
    text = performance_page.page(files)
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == ["## Every op: a GPU", "## Training steps: a GPU"]
    assert "| default | 40 | 39–41 | 100 | 2 | 1 | 25% | 1200 | 50% | 9 |" in text
    assert "| convolutions | 100.0% |" in text


def test_another_file_is_refused(tmp_path):
    results = tmp_path / "other.jsonl"
    results.write_text('{"kind": "row"}\n')
    with pytest.raises(ValueError, match="no result file of a benchmark"):
        performance_page.page([results])


def test_the_committed_page_is_the_one_that_the_committed_results_give():
    committed = performance_page.ROOT / "docs" / "performance.md"
    # If not: python benchmarks/performance_page.py
    assert committed.read_text(encoding="utf-8") == performance_page.committed_page()
