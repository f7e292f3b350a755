"""Planted kernels: a wrong one gets no time, one that fails says so, a slow one is found by a comparison."""

import dataclasses
import time

import pytest
import torch

from ganfuse.bench import compare, records
from ganfuse.bench.catalogue import make_subject
from ganfuse.bench.ceilings import Ceilings
from ganfuse.bench.runner import Runner
from ganfuse.bench.subject import OURS, REFERENCE, Case
from ganfuse.bench.timing import CpuTimer

CPU = torch.device("cpu")
CASE = Case("own", "bias_act", "small", {"batch": 2, "channels": 4, "side": 8}, "fp32", "nchw")
CEILINGS = Ceilings(copy=1e9, matmul={"fp32": 1e10}, exp=None)


def run(path, plant=None, **options):
    """Rows of the small case, by (implementation, pass), with `plant` in place of ours."""
    results = records.ResultFile(path, records.header("bench", CPU, "test"))
    subject = make_subject(CASE, CPU)
    if plant is not None:
        ours = subject.implementations[OURS]
        changed = {**subject.implementations, OURS: lambda *inputs: plant(ours, *inputs)}
        subject = dataclasses.replace(subject, implementations=changed)
    runner = Runner(CPU, results, CpuTimer(time.perf_counter), CEILINGS, seconds=0.002, **options)
    rows = runner.measure(CASE, subject)
    return {(row["provider"], row["pass"]): row for row in rows}, runner


def test_a_row_has_times_rates_and_shares(tmp_path):
    rows, runner = run(tmp_path / "a.jsonl")
    row = rows[OURS, "forward"]
    assert row["status"] == "ok"
    assert row["p20_ms"] <= row["ms"] <= row["p80_ms"]
    assert len(row["round_ms"]) == 5
    assert row["least_bytes"] == 2 * 4 * 512
    assert row["gb_s"] == pytest.approx(4096 / row["ms"] / 1e6)
    assert row["copy_share"] == pytest.approx(row["gb_s"])
    assert row["peak_bytes"] >= 4 * 512
    assert rows[REFERENCE, "double backward"]["status"] == "ok"
    assert runner.is_done(CASE)
    assert len(records.joined_rows(records.read(tmp_path / "a.jsonl"))) == len(rows)


@pytest.mark.parametrize("size", [1e-3, float("nan")])
def test_a_wrong_kernel_gets_no_time(tmp_path, size):
    rows, _ = run(tmp_path / "a.jsonl", lambda ours, x, b: ours(x, b) + size)
    row = rows[OURS, "forward"]
    assert row["status"] == "wrong"
    assert "relative error" in row["reason"]
    assert "ms" not in row
    assert rows[REFERENCE, "forward"]["status"] == "ok"


def test_a_kernel_whose_gradient_alone_is_wrong_gets_no_time_there(tmp_path):
    rows, _ = run(tmp_path / "a.jsonl", lambda ours, x, b: ours(x, b.detach()) + 0 * b.sum())
    assert rows[OURS, "forward"]["status"] == "ok"
    assert rows[OURS, "forward+backward"]["status"] == "wrong"
    assert "ms" not in rows[OURS, "forward+backward"]


def test_a_kernel_that_fails_is_an_error_and_a_peer_is_refused(tmp_path):
    def fail(ours, x, b):
        if torch.is_grad_enabled():
            raise RuntimeError("no gradients here")
        return ours(x, b)

    rows, _ = run(tmp_path / "a.jsonl", fail)
    assert rows[OURS, "forward+backward"]["status"] == "error"
    assert "no gradients here" in rows[OURS, "forward+backward"]["reason"]
    assert rows[OURS, "forward"]["status"] == "ok"


def test_only_the_passes_and_peers_that_are_wanted(tmp_path):
    rows, _ = run(tmp_path / "a.jsonl", wanted=["forward"], peers=[REFERENCE])
    assert set(rows) == {(OURS, "forward"), (REFERENCE, "forward")}


def test_a_slow_kernel_is_flagged_by_a_comparison(tmp_path):
    def slow(ours, x, b):
        time.sleep(0.005)
        return ours(x, b)

    run(tmp_path / "before.jsonl", wanted=["forward"])
    run(tmp_path / "after.jsonl", slow, wanted=["forward"])
    before, after = (records.read(tmp_path / name) for name in ("before.jsonl", "after.jsonl"))
    found = {change.provider: change for change in compare.compare(before, after)}
    assert found[OURS].verdict == "slower"
    assert found[OURS].is_regression
    assert found[OURS].ratio > 5
    assert any("* slower" in line and OURS in line for line in compare.lines(list(found.values())))
    back = {change.provider: change for change in compare.compare(after, before)}
    assert back[OURS].verdict == "faster"
    assert not back[OURS].is_regression


def result(*, rounds, spread=0.01, status="ok", device="a"):
    row = {"kind": "row", "case": "c", "provider": OURS, "pass": "forward", "status": status}
    if status == "ok":
        row |= {"ms": sorted(rounds)[len(rounds) // 2], "round_ms": rounds, "spread": spread}
    return [{"kind": "header", "device": device}, row]


@pytest.mark.parametrize(
    ("old", "new", "spread", "verdict"),
    [
        ([1.0, 1.01, 1.02, 1.03, 1.04], [1.2, 1.21, 1.22, 1.23, 1.24], 0.01, "slower"),
        # One round of the one among those of the other.
        ([1.0, 1.01, 1.02, 1.03, 1.21], [1.2, 1.21, 1.22, 1.23, 1.24], 0.01, "same"),
        # The rounds of a run drifted as far apart as the runs are.
        ([1.0, 1.01, 1.02, 1.03, 1.04], [1.2, 1.21, 1.22, 1.23, 1.24], 0.3, "same"),
        ([1.0, 1.001, 1.002, 1.003, 1.004], [1.01, 1.011, 1.012, 1.013, 1.014], 0.001, "same"),
        ([1.0, 1.01, 1.02], [1.2, 1.21, 1.22], 0.01, "same"),
    ],
)
def test_significance(old, new, spread, verdict):
    (change,) = compare.compare(result(rounds=old, spread=spread), result(rounds=new, spread=spread))
    assert change.verdict == verdict


def test_a_row_that_lost_its_time_is_a_regression_and_nothing_in_common_an_error():
    good, bad = result(rounds=[1.0] * 5), result(rounds=[], status="wrong")
    assert [c.verdict for c in compare.compare(good, bad)] == ["wrong"]
    assert [c.verdict for c in compare.compare(bad, good)] == ["mended"]
    assert compare.differences(good, result(rounds=[1.0] * 5, device="b")) == ["device: a then, b now"]
    with pytest.raises(ValueError, match="no row in common"):
        compare.compare(good, good[:1])
