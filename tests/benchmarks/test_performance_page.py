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
    "p80_ms": 1.5, "gb_s": 321.0, "copy_share": 0.87, "peak_bytes": 2**21, "launches": 1,
}  # fmt: skip
WRONG = {"kind": "row", "case": "c", "provider": "a|b", "pass": "forward", "status": "wrong", "reason": "0: off"}


def test_every_number_on_the_page_has_its_device_and_versions(tmp_path):
    results, out = tmp_path / "bench-a.jsonl", tmp_path / "page.md"
    results.write_text("".join(json.dumps(line) + "\n" for line in (HEADER, CASE, ROW, WRONG)))
    assert performance_page.main(["--results", str(results), "--out", str(out)]) == 0
    text = out.read_text()
    assert "## a GPU" in text
    assert "PyTorch 2.13, Triton 3.7, commit 0123456789ab, 2026-01-01" in text
    row = "| **ganfuse** | forward | 1.25 | 1.2–1.5 |  | 321 | 87% |  |  | 2.0 | 1 |"
    assert f"| sagan-128 here bf16 nchw {row}" in text
    assert "| a/b | forward | wrong: 0: off |" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in tables}) == 1


def test_a_file_of_another_benchmark_is_refused(tmp_path):
    results = tmp_path / "attention.jsonl"
    results.write_text(json.dumps(HEADER | {"benchmark": "attention"}) + "\n")
    with pytest.raises(ValueError, match="no result file of ganfuse bench"):
        performance_page.page([results])


def test_the_committed_page_is_the_one_that_the_committed_results_give():
    files = sorted((performance_page.ROOT / "benchmarks" / "results").glob("bench-*.jsonl"))
    committed = performance_page.ROOT / "docs" / "performance.md"
    assert committed.exists() == bool(files)
    if files:
        assert committed.read_text(encoding="utf-8") == performance_page.page(files)
