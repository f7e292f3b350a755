"""One run of the attention benchmark: try, check, time, probe, write."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.attention_cases import Case, Inputs, make_inputs
from benchmarks.attention_passes import PASSES, RESULTS, calls, expected
from benchmarks.attention_providers import OURS, RefusedError, build
from ganfuse.bench import correctness, records
from ganfuse.bench.ceilings import Ceilings
from ganfuse.bench.device_probes import count_launches, peak_bytes
from ganfuse.bench.timing import Call, Timer, Timing, measure
from ganfuse.kernels import Cost


class ContextLostError(RuntimeError):
    """A kernel crashed; nothing runs on the GPU in this process any more."""


@dataclasses.dataclass
class Attempt:
    """One pass of one implementation: how it went.

    Attributes:
        status: "ok"; "refused" (it does not do that), "wrong", "no memory", "error", "crashed".
        reason: for every status but "ok".
        call: to time, once it proved right.
        errors: relative to float64, by result.
        detail: what the implementation chose to do.
    """

    status: str
    reason: str = ""
    call: Call | None = None
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    detail: str = ""


@dataclasses.dataclass
class Truth:
    """What some samples of the batch must give, and what plain PyTorch makes of them in the inputs' type."""

    indices: list[int]
    exact: Mapping[str, Tensor]
    plain: Mapping[str, Tensor]

    @classmethod
    def of(cls, inputs: Inputs) -> "Truth":
        batch = inputs.query.shape[0]
        indices = sorted({0, batch // 2, batch - 1})
        return cls(indices, expected(inputs, indices, exact=True), expected(inputs, indices, exact=False))


def first_line(error: BaseException) -> str:
    """Type and first line of an error."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"


class Runner:
    """Measures cases and writes their rows.

    Args:
        results: where the rows go.
        ceilings: of this device, measured in this run.
    """

    def __init__(self, device: torch.device, results: records.ResultFile, timer: Timer, ceilings: Ceilings) -> None:
        self.device = device
        self.results = results
        self.timer = timer
        self.ceilings = ceilings

    def run(self, case: Case, providers: Sequence[str]) -> None:
        """Measure `providers` at a case, and ours beside them; write their rows.

        Raises:
            ContextLostError: a kernel crashed; the row that says so is written.
        """
        torch._dynamo.reset()
        inputs = make_inputs(case, self.device)
        truth = Truth.of(inputs)
        attempts: dict[str, dict[str, Attempt]] = {}
        crashed = {
            row["provider"] for row in self.results.rows() if row["case"] == case.name and row["status"] == "crashed"
        }
        for provider in dict.fromkeys((OURS, *providers)):
            if provider in crashed:
                continue
            try:
                attempts[provider] = self._attempt(provider, inputs, truth)
            except ContextLostError as error:
                self._crashed(case, [provider], error)
                raise
        del truth
        timings: dict[str, dict[str, Timing]] = {}
        for which in PASSES:
            ready = {p: a[which].call for p, a in attempts.items()}
            try:
                timings[which] = self._measure({p: call for p, call in ready.items() if call is not None})
            except Exception as error:
                try:
                    self._check_alive(error)
                except ContextLostError as lost:
                    self._crashed(case, providers, lost)
                    raise
                raise
        for provider in providers:
            self._write(case, provider, attempts[provider], timings)

    def _crashed(self, case: Case, providers: Sequence[str], error: ContextLostError) -> None:
        # A row for each, so that the next process goes past them.
        for provider in providers:
            self._write(case, provider, {which: Attempt("crashed", str(error)) for which in PASSES}, {})

    def _measure(self, calls: Mapping[str, Call]) -> dict[str, Timing]:
        if not calls:
            return {}
        if self.device.type == "cuda":
            return measure(calls, self.timer, rounds=2, seconds=0.03, least_samples=4)
        return measure(calls, self.timer, rounds=15, seconds=0.03, limit=20.0)

    def _attempt(self, provider: str, inputs: Inputs, truth: Truth) -> dict[str, Attempt]:
        """Try every pass once, and check its results."""
        try:
            built = build(provider, inputs)
        except Exception as error:
            self._check_alive(error)
            refused = isinstance(error, RefusedError)
            failure = Attempt("refused", str(error)) if refused else self._failure(provider, error)
            return dict.fromkeys(PASSES, failure)
        possible = calls(inputs, built.attention, built.penalty)
        attempts = {}
        for which in PASSES:
            if which in possible:
                attempts[which] = self._check(provider, which, possible[which], truth)
            else:
                attempts[which] = Attempt("refused", "it has the whole penalty only")
            attempts[which].detail = built.detail
        return attempts

    def _check(self, provider: str, which: str, call: Call, truth: Truth) -> Attempt:
        try:
            results = dict(zip(RESULTS[which], call.run(call.prepare()), strict=True))
            finite = all(bool(torch.isfinite(x).all()) for x in results.values())
            checked = {name: x.detach()[truth.indices] for name, x in results.items()}
            errors, wrong = correctness.failures(checked, truth.exact, truth.plain)
        except Exception as error:
            self._check_alive(error)
            return self._failure(provider, error)
        if not finite:
            wrong.insert(0, "not finite everywhere")
        return Attempt("wrong", "; ".join(wrong)) if wrong else Attempt("ok", call=call, errors=errors)

    def _failure(self, provider: str, error: Exception) -> Attempt:
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            return Attempt("no memory", first_line(error))
        # A peer may say no in any way that it likes; for us, saying no is a defect.
        return Attempt("error" if provider == OURS else "refused", first_line(error))

    def _check_alive(self, error: Exception) -> None:
        """Raise `ContextLostError` if the GPU does not answer any more."""
        if self.device.type != "cuda":
            return
        try:
            torch.cuda.synchronize(self.device)
            torch.zeros(1, device=self.device).item()
        except Exception:
            raise ContextLostError(first_line(error)) from error

    def _write(
        self, case: Case, provider: str, attempts: Mapping[str, Attempt], timings: Mapping[str, Mapping[str, Timing]]
    ) -> None:
        ready = {which: attempt.call for which, attempt in attempts.items() if attempt.call is not None}
        # A profile takes longer than most measurements, and other layouts and types launch the same.
        profiled = case.dtype == "bf16" and (case.goal or case.layout == "channels_last")
        launches = count_launches(ready, self.device) if profiled else {}
        if not any(record["kind"] == "case" and record["case"] == case.name for record in self.results.records):
            shape = {k: v for k, v in dataclasses.asdict(case).items() if k not in ("site", "goal")}
            self.results.append({"kind": "case", "case": case.name, "goal": case.goal, "shape": shape})
        for which, attempt in attempts.items():
            row: dict[str, Any] = {
                "kind": "row", "case": case.name, "provider": provider, "pass": which, "status": attempt.status,
            }  # fmt: skip
            row |= {k: v for k, v in (("reason", attempt.reason), ("detail", attempt.detail)) if v}
            if which in ready:
                timing, ours = timings[which][provider], timings[which].get(OURS)
                host = ready[which].host_seconds
                row |= {
                    "ms": 1e3 * timing.median,
                    "p20_ms": 1e3 * timing.quantile(0.2),
                    "p80_ms": 1e3 * timing.quantile(0.8),
                    "samples": len(timing.samples),
                    "spread": timing.spread,
                    "ratio_to_ganfuse": None if ours is None else timing.over(ours),
                    "ratio_spread": None if ours is None else timing.over_spread(ours),
                    "host_us": None if host is None else 1e6 * host,
                    "peak_bytes": peak_bytes(ready[which], self.device),
                    "launches": launches.get(which),
                    "errors": records.rounded(attempt.errors, 2),
                    **self._shares(case, case.costs()[which], timing.median),
                }
            self.results.append(row)
        times = [f"{which} {1e3 * timings[which][provider].median:.3f}" for which in ready]
        others = {a.status: a.reason for a in attempts.values() if a.call is None}
        said = "; ".join(f"{status}: {reason[:100]}" for status, reason in others.items())
        print(f"  {provider:<16}{'  '.join(times)}  {said}", flush=True)

    def _shares(self, case: Case, cost: Cost, seconds: float) -> dict[str, float | None]:
        matmul = self.ceilings.matmul[case.dtype]
        floor = cost.floor_seconds(self.ceilings.copy, matmul, self.ceilings.exp)
        rate = cost.flops / seconds
        return {"tflops": rate / 1e12, "matmul_share": rate / matmul, "floor_share": floor / seconds}

    def measure_host(self, providers: Sequence[str] = (OURS, "bmm-tokens", "sdpa"), *, count: int = 300) -> None:
        """Host time of a call at a size where the device has nothing to do; one line for each implementation."""
        inputs = make_inputs(Case("tiny", 1, 8, 32, 4, 4), self.device)
        for provider in providers:
            todo = calls(inputs, build(provider, inputs).attention)
            times = {}
            for which in ("forward", "forward_backward"):
                run = todo[which].run
                for _ in range(20):
                    run(None)
                self._synchronize()
                start = time.perf_counter()
                for _ in range(count):
                    run(None)
                times[f"{which}_us"] = (time.perf_counter() - start) / count * 1e6
                self._synchronize()
            self.results.append({"kind": "host", "provider": provider, **times})

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
