"""The attention benchmark from end to end, at a size that takes no time."""

import json

import pytest
import torch

from benchmarks import attention, attention_providers, attention_runner
from benchmarks.attention_cases import CPU_CASES, GPU_CASES, Case, make_inputs
from benchmarks.attention_passes import PASSES, RESULTS, calls, definition, expected
from ganfuse.bench.timing import Timing
from ganfuse.kernels.feature_attention import cost

TINY = Case("tiny", 3, 2, 5, 4, 2, "fp32", "nchw")


def tiny_inputs(dtype="fp32", layout="channels_last", d=2, e=5):
    return make_inputs(Case("tiny", 2, d, e, 4, 2, dtype, layout), torch.device("cpu"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One round of one sample; ceilings that need no measuring."""
    from ganfuse.bench.ceilings import Ceilings

    def measure(calls, timer, **_):
        return {name: Timing([timer.sample(call, 1), timer.sample(call, 1)]) for name, call in calls.items()}

    monkeypatch.setattr(attention_runner, "measure", measure)
    monkeypatch.setattr(attention, "measure_ceilings", lambda *_: Ceilings(1e10, {"fp32": 1e11, "bf16": 1e11}, None))
    monkeypatch.setattr(attention, "CPU_CASES", [TINY])
    # Somebody may be editing the kernels while the tests run.
    monkeypatch.setattr(attention.records, "source_digest", lambda *_: "pinned")


def run(tmp_path, *arguments):
    assert attention.main(["--device", "cpu", "--out", str(tmp_path), *arguments]) == 0
    lines = (tmp_path / "attention-cpu.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_rows_tables_and_resuming(tmp_path, capsys):
    first = run(tmp_path)
    rows = [r for r in first if r["kind"] == "row"]
    assert first[0]["kind"] == "header"
    assert first[0]["command"] == "python benchmarks/attention.py --device cpu"
    assert {r["provider"] for r in rows} == set(attention._CPU_PROVIDERS) - {"reference"}
    assert {r["pass"] for r in rows} == set(PASSES)
    for r in rows:
        assert r.get("reason") or r["status"] == "ok"
        if r["provider"] == "ganfuse":
            assert r["status"] == "ok"
            assert r["ratio_to_ganfuse"] == pytest.approx(1.0)
            assert set(r["errors"]) == set(RESULTS[r["pass"]])
            assert r["ms"] > 0
    table = (tmp_path / "attention-cpu.txt").read_text()
    assert "tiny/fp32/nchw" in table
    assert "1 of 1 are there" not in capsys.readouterr().out
    assert run(tmp_path) == first
    assert "1 of 1 are there" in capsys.readouterr().out


def test_a_refusal_is_recorded_with_its_reason(tmp_path):
    rows = [r for r in run(tmp_path, "--only", "sdpa-flash") if r["kind"] == "row"]
    by_pass = {r["pass"]: r for r in rows}
    assert by_pass["forward"]["status"] == "ok"
    assert "padded to 8" in by_pass["forward"]["detail"]
    assert by_pass["double_backward"]["status"] == "refused"
    assert "derivative" in by_pass["double_backward"]["reason"]
    assert "ms" not in by_pass["double_backward"]


@pytest.mark.parametrize("flaw", ["output", "grad", "second", "nan in an unchecked sample"])
def test_a_planted_wrong_kernel_gets_no_time(tmp_path, monkeypatch, flaw):
    class Planted(torch.autograd.Function):
        """The identity with a flaw of 1 % in one of its derivatives."""

        @staticmethod
        def forward(ctx, x, order):
            ctx.order = order
            return x * (1.01 if order == 0 else 1.0)

        @staticmethod
        def backward(ctx, grad):
            return (
                grad * (1.01 if ctx.order == 0 else 1.0) if ctx.order < 1 else Planted.apply(grad, ctx.order - 1)
            ), None

    def attend(query, key, value):
        output = definition(query, key, value)
        if flaw == "output":
            return output * 1.01
        if flaw.startswith("nan"):
            return torch.where(torch.arange(output.shape[0]).view(-1, 1, 1, 1) == 2, float("nan"), output)
        return Planted.apply(output, 1 if flaw == "grad" else 2)

    monkeypatch.setitem(
        attention_providers._BUILDERS, "bmm-tokens", lambda _: attention_providers.Provider("bmm-tokens", attend)
    )
    monkeypatch.setattr(attention, "CPU_CASES", [Case("tiny", 6, 2, 5, 4, 2, "fp32", "nchw")])
    rows = {r["pass"]: r for r in run(tmp_path, "--only", "bmm-tokens") if r["kind"] == "row"}
    first_wrong = {"output": "forward", "grad": "backward", "second": "double_backward"}.get(flaw, "forward")
    assert rows[first_wrong]["status"] == "wrong"
    assert "ms" not in rows[first_wrong]
    if flaw == "second":
        assert rows["backward"]["status"] == "ok"
    if flaw.startswith("nan"):
        assert "not finite everywhere" in rows["forward"]["reason"]


def test_an_error_of_ours_is_an_error_and_the_rest_goes_on(tmp_path, monkeypatch):
    def broken(_):
        raise RuntimeError("planted")

    monkeypatch.setitem(attention_providers._BUILDERS, "ganfuse", broken)
    rows = [r for r in run(tmp_path) if r["kind"] == "row"]
    assert {r["status"] for r in rows if r["provider"] == "ganfuse"} == {"error"}
    peers = [r for r in rows if r["provider"] == "bmm-tokens"]
    assert {r["status"] for r in peers} == {"ok"}
    assert {r["ratio_to_ganfuse"] for r in peers} == {None}


def test_bad_arguments_say_what_is_wrong(tmp_path, capsys):
    assert attention.main(["--device", "cpu", "--only", "no-such-case", "--out", str(tmp_path)]) == 2
    assert "no-such-case" in capsys.readouterr().err
    assert attention.main(["--report", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err
    (tmp_path / "other.jsonl").write_text('{"kind": "header", "benchmark": "other"}\n')
    assert attention.main(["--report", str(tmp_path / "other.jsonl")]) == 2


@pytest.mark.parametrize("provider", ["ganfuse", "reference", "bmm-tokens", "bmm-channels", "sdpa", "sdpa-math"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_providers_compute_the_same_function(provider, layout):
    inputs = tiny_inputs(layout=layout).double()
    truth = expected(inputs, [0, 1], exact=True)
    built = attention_providers.build(provider, inputs)
    for which, call in calls(inputs, built.attention).items():
        for name, x in zip(RESULTS[which], call.run(call.prepare()), strict=True):
            torch.testing.assert_close(x, truth[name])


@pytest.mark.parametrize(("d", "e", "label"), [(8, 8, "as it is"), (2, 8, "q, k padded to 8"), (3, 5, "v padded to 8")])
def test_fused_attention_gets_the_cheapest_form_that_it_takes(d, e, label):
    inputs = tiny_inputs(d=d, e=e)
    built = attention_providers.build("sdpa-flash", inputs)
    assert built.detail.startswith("flash")
    assert label in built.detail
    output = built.attention(*inputs[:3])
    torch.testing.assert_close(output, definition(*inputs[:3]))


def test_fused_attention_refuses_with_pytorchs_own_words():
    with pytest.raises(attention_providers.RefusedError, match=r"as it is: .*backend"):
        attention_providers.build("sdpa-cudnn", tiny_inputs())


@pytest.mark.slow
@pytest.mark.parametrize("provider", ["compile", "compile-penalty"])
def test_compiled_providers_compute_the_same_function(provider):
    inputs = tiny_inputs()
    truth = expected(inputs, [0, 1], exact=True)
    built = attention_providers.build(provider, inputs)
    possible = calls(inputs, built.attention, built.penalty)
    for which in {"forward", "forward_backward", "penalty"} & set(possible) - (
        {"penalty"} if provider == "compile" else set()
    ):
        for name, x in zip(RESULTS[which], possible[which].run(None), strict=True):
            torch.testing.assert_close(x.double(), truth[name], rtol=1e-4, atol=1e-5)


def test_costs_are_those_of_the_op():
    costs = TINY.costs()
    pairs = 3 * 16 * 4
    assert costs["forward"].flops == 2 * pairs * (2 + 5)
    assert costs["forward_backward"] == cost.forward(3, 16, 4, 2, 5, 4) + cost.backward(3, 16, 4, 2, 5, 4)
    assert costs["penalty"].flops > costs["double_backward"].flops > costs["backward"].flops


def test_inputs_have_the_layout_and_unit_logits():
    inputs = make_inputs(Case("x", 8, 16, 32, 16, 16, "bf16", "channels_last"), torch.device("cpu"))
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in inputs)
    logits = torch.einsum("bcn,bcm->bnm", inputs.query.float().flatten(2), inputs.key.float().flatten(2))
    assert logits.std().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("cases", [CPU_CASES, GPU_CASES])
def test_case_names_are_unique(cases):
    assert len({case.name for case in cases}) == len(cases)


def test_the_plan_has_every_goal_and_compiles_where_asked():
    plan = attention.make_plan(attention._parse(["--device", "cuda"]), gpu=True)
    compiled = {case.name for case, names in plan if "compile-penalty" in names}
    goals = {case.name for case in GPU_CASES if case.goal and case.dtype == "bf16"}
    assert goals <= compiled < {case.name for case in GPU_CASES}
    only = attention.make_plan(attention._parse(["--only", "biggan128-d*nchw/sdpa-flash"]), gpu=True)
    assert [(case.name, names) for case, names in only] == [("biggan128-d-pooled/bf16/nchw", ["sdpa-flash"])]
