import pytest

from benchmarks import attention_report
from benchmarks.attention_passes import PASSES


def row(provider, which, ms, *, case="site/bf16/nchw", ratio=None, status="ok", d=64, e=64, goal=True, share=0.6):
    return {
        "kind": "row", "case": case, "shape": {"d": d, "e": e, "dtype": "bf16"}, "goal": goal, "provider": provider,
        "pass": which, "status": status, "reason": "" if status == "ok" else "because", "detail": "how", "ms": ms,
        "spread": 0.02, "ratio_to_ganfuse": ratio, "tflops": 1.0, "matmul_share": share, "floor_share": 0.4,
        "peak_bytes": 1 << 20, "launches": 3,
    }  # fmt: skip


def complete(**changes):
    ms = dict.fromkeys(PASSES, 1.0) | {"double_backward": 3.0} | changes
    return [row("ganfuse", which, ms[which]) for which in PASSES]


def verdicts(rows, device="cuda"):
    return [goal.verdict for goal in attention_report.goals(rows, device)]


def test_all_goals_met():
    peers = [row("sdpa-flash", which, 2.0, ratio=2.0) for which in PASSES]
    assert verdicts(complete() + peers) == ["PASS", "PASS", "PASS"]


def test_each_goal_is_missed_by_its_own_number():
    peers = [row("sdpa-flash", which, 0.8, ratio=0.8) for which in PASSES]
    slow = complete(double_backward=3.6)
    slow[0]["matmul_share"] = 0.49
    assert verdicts(slow + peers) == ["MISS", "MISS", "MISS"]


def test_a_difference_within_the_noise_is_a_tie():
    peers = [row("sdpa-flash", which, 0.99, ratio=0.99) for which in PASSES]
    assert verdicts(complete() + peers)[1] == "TIE"


def test_what_was_not_measured_does_not_pass():
    assert verdicts([]) == ["NOT MEASURED"] * 3
    assert verdicts(complete())[1] == "NOT MEASURED"
    failed = [row("ganfuse", which, 0.0, status="error") for which in PASSES]
    assert verdicts([*failed, row("sdpa", "forward", 1.0)]) == ["NOT MEASURED"] * 3


def test_refused_peers_are_no_peers_and_naive_forms_alone_count_on_cpus():
    rows = [*complete(), row("bmm-tokens", "forward", 2.0, ratio=2.0), row("sdpa", "forward", 0.5, ratio=0.5)]
    rows += [row("bmm-tokens", which, 2.0, ratio=2.0) for which in PASSES[1:]]
    assert verdicts(rows, "cpu") == ["PASS"]
    rows[-1] = row("bmm-tokens", "penalty", 0.5, ratio=0.5)
    assert verdicts(rows, "cpu") == ["MISS"]


@pytest.mark.parametrize("make", [attention_report.full_tables, attention_report.summary])
def test_tables_name_every_case_and_reason(make):
    rows = [*complete(), row("sdpa-flash", "forward", 1.5, ratio=1.5)]
    text = make(rows)
    assert "site/bf16/nchw" in text
    assert "sdpa-flash" in text
    refused = make([row("ganfuse", "forward", 0.0, status="wrong")])
    assert "wrong" in refused
    assert "because" in refused
