"""The norms' GPU benchmark from end to end, on the CPU at sizes that take no time."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import norms, norms_cases
from ganfuse.bench.ceilings import Ceilings
from ganfuse.bench.timing import Timing

OPS = ("cbn", "bn", "in", "adain", "epilogue", "adalin", "iln", "pixel_norm", "bias_act")
TINY = [norms_cases.Case("tiny", op, 2, 4, 4, "fp32", goal=op == "cbn") for op in OPS]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One round of one sample; ceilings that need no measuring."""

    def measure(calls, timer, **_):
        return {name: Timing([timer.sample(call, 1), timer.sample(call, 1)]) for name, call in calls.items()}

    monkeypatch.setattr(norms, "measure", measure)
    monkeypatch.setattr(norms, "measure_ceilings", lambda *_: Ceilings(1e10, {}, None))
    monkeypatch.setattr(norms, "GPU_CASES", TINY)
    # Somebody may be editing the kernels while the tests run.
    monkeypatch.setattr(norms.records, "source_digest", lambda *_: "pinned")


def run(tmp_path, *arguments):
    arguments = ("--device", "cpu", "--out", str(tmp_path), *arguments)
    assert norms.main([*arguments]) == 0
    return [json.loads(line) for line in (tmp_path / "norms-cpu-smoke.jsonl").read_text().splitlines()]


def test_rows_report_and_resuming(tmp_path, capsys):
    first = run(tmp_path, "--providers", *norms.QUICK)
    rows = [r for r in first if r["kind"] == "row"]
    assert len(rows) == len(OPS) * len(norms.QUICK) * len(norms.PASSES)
    for r in rows:
        assert r["status"] == "ok", r
        assert r["ms"] > 0
        assert r["copy_share"] > 0
        if r["provider"] == "ganfuse":
            assert r["ratio_to_ganfuse"] == pytest.approx(1.0)
    said = capsys.readouterr().out
    assert "tiny/epilogue-4-4/fp32/channels_last" in said
    assert "not measured" in said
    assert run(tmp_path, "--providers", *norms.QUICK) == first
    assert norms.main(["--report", str(tmp_path / "norms-cpu-smoke.jsonl")]) == 0


def test_a_wrong_kernel_gets_no_time(tmp_path, monkeypatch):
    right = norms_cases.plain

    def planted(op):
        return lambda *inputs: 1.01 * right(op)(*inputs)

    monkeypatch.setattr(norms, "plain", planted)
    rows = [r for r in run(tmp_path, "--only", "cbn", "--providers", "plain") if r["kind"] == "row"]
    assert {r["status"] for r in rows if r["pass"] != "double_backward"} == {"wrong"}
    assert all("ms" not in r for r in rows if r["status"] == "wrong")


def test_an_error_is_written_and_the_rest_goes_on(tmp_path, monkeypatch):
    def broken(op):
        def run(*_):
            raise RuntimeError("planted")

        return run

    monkeypatch.setattr(norms, "plain", broken)
    rows = [r for r in run(tmp_path, "--only", "adain", "--providers", *norms.QUICK) if r["kind"] == "row"]
    assert {r["reason"] for r in rows if r["provider"] == "plain"} == {"RuntimeError: planted"}
    assert {r["status"] for r in rows if r["provider"] == "ganfuse"} == {"ok"}


def test_torch_compile_is_measured_and_refuses_the_second_derivative(tmp_path, monkeypatch):
    # Compiling for real takes long: what is asked here is what is made of it.
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    rows = {r["pass"]: r for r in run(tmp_path, "--only", "in-", "--providers", "compile") if r["kind"] == "row"}
    assert rows["double_backward"]["status"] == "refused"
    assert rows["forward_backward"]["status"] == "ok"


def test_bad_arguments_say_what_is_wrong(tmp_path, capsys):
    assert norms.main(["--device", "cpu", "--only", "no-such-case", "--out", str(tmp_path)]) == 2
    assert "no-such-case" in capsys.readouterr().err


def test_the_named_cases():
    names = {case.name for case in norms_cases.GPU_CASES}
    assert len(names) == len(norms_cases.GPU_CASES)
    for channels, side in ((1536, 4), (1536, 8), (768, 16), (384, 32), (192, 64), (96, 128)):
        assert f"biggan128/cbn-{channels}-{side}/bf16/channels_last" in names
    plan = norms.make_plan([], norms.PROVIDERS, norms_cases.GPU_CASES)
    # Everything once before the first long compilation.
    assert [("compile" in names) for _, names in plan] == [False] * len(names) + [True] * len(names)


def test_costs_count_what_the_kernels_move():
    cpu = torch.device("cpu")
    case = norms_cases.Case("x", "cbn", 4, 8, 16)
    one = 4 * 8 * 256 * 2
    assert case.costs(cpu)["forward_backward"].bytes == 8 * one
    assert replace(case, op="bias_act").costs(cpu)["forward"].bytes == 2 * one
    assert replace(case, op="epilogue").costs(cpu)["backward"].bytes == 5 * one + 2 * 4 * 4 * 256
