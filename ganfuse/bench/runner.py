"""Measures cases: right first, then fast; a row for every pass of every implementation."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ganfuse.bench import attention, passes
from ganfuse.bench.catalogue import make_subject
from ganfuse.bench.ceilings import Ceilings
from ganfuse.bench.device_probes import count_launches, joules_per_call, peak_bytes
from ganfuse.bench.records import ResultFile, rounded
from ganfuse.bench.subject import COMPILED, OURS, PASSES, REFERENCE, Case, Draw, Op, Subject, as_list
from ganfuse.bench.timing import Call, Timer, Timing, measure
from ganfuse.engine.gpu_readings import GPUReadings
from ganfuse.kernels.cost import Cost


@dataclasses.dataclass
class _Attempt:
    """How a pass of an implementation went: "ok", "refused", "wrong", "no memory" or "error"."""

    status: str
    reason: str = ""
    call: Call | None = None
    errors: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Runner:
    """Measures cases and writes their rows.

    Args:
        results: where the rows go.
        ceilings: of this device, measured in this run.
        wanted: passes to measure, of `PASSES`.
        peers: names of implementations beside ours; None: all but torch.compile on a CPU, where compiling takes longer
            than all the rest.
        rounds, seconds: how often each is visited, and how long a visit lasts.
        energy: measure that of every implementation; else only of ours and the reference, forward and backward.
    """

    def __init__(
        self,
        device: torch.device,
        results: ResultFile,
        timer: Timer,
        ceilings: Ceilings,
        *,
        wanted: Sequence[str] = tuple(PASSES),
        peers: Sequence[str] | None = None,
        rounds: int = 5,
        seconds: float = 0.03,
        energy: bool = False,
    ) -> None:
        self.energy, self._readings = energy, GPUReadings(device)
        self.device, self.results, self.timer, self.ceilings = device, results, timer, ceilings
        self.wanted, self.peers, self.rounds, self.seconds = tuple(wanted), peers, rounds, seconds

    def is_done(self, case: Case, provider: str = OURS) -> bool:
        """Whether the result file has all rows of an implementation of a case; of ours: and of its peers."""
        rows = (r for r in self.results.records if r["kind"] == "row" and r["case"] == case.name)
        return set(self.wanted) <= {row["pass"] for row in rows if row["provider"] == provider}

    @property
    def compiles(self) -> bool:
        """Whether torch.compile is among the peers."""
        return self.device.type == "cuda" if self.peers is None else COMPILED in self.peers

    def run(self, case: Case, *, compiled: bool = False) -> list[dict[str, Any]]:
        """Measure a case; its rows, which the result file has, too.

        Args:
            compiled: measure torch.compile of the reference, beside ours; else all but that. It takes longer than all
                the others together, and comes when those have been measured.
        """
        return self.measure(case, make_subject(case, self.device), compiled=compiled)

    def measure(self, case: Case, subject: Subject, *, compiled: bool = False) -> list[dict[str, Any]]:
        """`run`, of a subject that is made already."""
        attempts = self._attempts(subject, compiled)
        if not any(r["kind"] == "case" and r["case"] == case.name for r in self.results.records):
            self.results.append(case.record())
        ready = {which: {p: a[which].call for p, a in attempts.items()} for which in self.wanted}
        timings = {
            which: self._time({p: call for p, call in found.items() if call is not None})
            for which, found in ready.items()
        }
        rows = []
        # Ours last: its rows say that the case is complete.
        for provider in sorted(attempts, key=lambda name: name == OURS):
            right = {w: a.call for w, a in attempts[provider].items() if a.call is not None}
            launches = count_launches(right, self.device)
            for which, attempt in attempts[provider].items():
                row: dict[str, Any] = {
                    "kind": "row", "case": case.name, "provider": provider, "pass": which, "status": attempt.status,
                }  # fmt: skip
                if attempt.reason:
                    row["reason"] = attempt.reason
                if attempt.call is not None:
                    row |= self._numbers(timings[which][provider], timings[which].get(OURS), subject.costs[which], case)
                    host = attempt.call.host_seconds
                    row |= {
                        "host_us": None if host is None else 1e6 * host,
                        "peak_bytes": peak_bytes(attempt.call, self.device),
                        "launches": launches.get(which),
                        "energy_mj": self._energy(provider, which, attempt.call),
                        "errors": rounded(dict(attempt.errors), 2),
                    }
                rows.append(row)
        if compiled:
            rows = [row for row in rows if row["provider"] == COMPILED]
        for row in rows:
            self.results.append(row)
        return rows

    def memory_curve(self) -> None:
        """Peak memory of attention, forward and backward, against the number of positions; a line for each."""
        for sizes in attention.curve_sizes(self.device):
            draw = Draw("fp32" if self.device.type == "cpu" else "bf16", "nchw", self.device)
            subject = attention.attention(sizes, draw)
            for provider in (OURS, REFERENCE):
                op = subject.implementations[provider]
                grads = self._grads(subject)
                call = passes.calls(op, subject.inputs, grads, 3, second=False)["forward+backward"]
                try:
                    call.run(call.prepare())
                    peak = peak_bytes(call, self.device)
                except torch.OutOfMemoryError:
                    peak = None
                line = {"kind": "memory", "op": "feature_attention", "provider": provider, "peak_bytes": peak}
                self.results.append({**line, "positions": sizes["side"] ** 2, "sizes": dict(sizes)})

    def _energy(self, provider: str, which: str, call: Call) -> float | None:
        """Millijoules per call; None where nothing counts them, or where making the graph would be counted, too."""
        wanted = self.energy or (provider in (OURS, REFERENCE) and which == "forward+backward")
        if self.device.type != "cuda" or not wanted or which == "double backward":
            return None
        joules = joules_per_call(lambda: call.run(call.prepare()), self.device, self._readings, 0.25)
        return None if joules is None else 1e3 * joules

    def _grads(self, subject: Subject) -> list[torch.Tensor]:
        with torch.no_grad():
            outputs = as_list(subject.implementations[OURS](*subject.inputs))
        generator = torch.Generator(self.device).manual_seed(1)
        made = []
        for y in outputs:
            noise = torch.randn(y.shape, generator=generator, device=self.device)
            made.append(torch.empty_like(y).copy_(noise))
        return made

    def _attempts(self, subject: Subject, compiled: bool) -> dict[str, dict[str, _Attempt]]:
        try:
            grads = self._grads(subject)
        except Exception as error:
            return {OURS: dict.fromkeys(self.wanted, _failure(OURS, error))}
        indices = None
        inputs, gradients = subject.inputs, grads
        if subject.independent:
            batch = inputs[0].shape[0]
            indices = sorted({0, batch // 2, batch - 1})
            inputs, gradients = passes.samples(inputs, indices), passes.samples(grads, indices)
        reference = subject.implementations[REFERENCE]
        doubles = passes.wide(inputs), passes.wide(gradients)
        exact_calls = passes.calls(reference, *doubles, subject.penalised, second=True)
        plain_calls = passes.calls(reference, inputs, gradients, subject.penalised, second=True)
        possible = {
            name: passes.calls(op, subject.inputs, grads, subject.penalised, second=name != COMPILED)
            for name, op in self._implementations(subject, compiled).items()
        }
        attempts: dict[str, dict[str, _Attempt]] = {name: {} for name in possible}
        for which in self.wanted:
            exact, plain = passes.results_of(exact_calls[which]), passes.results_of(plain_calls[which])
            for name, made in possible.items():
                attempts[name][which] = self._attempt(name, made.get(which), exact, plain, indices)
        return attempts

    def _implementations(self, subject: Subject, compiled: bool) -> dict[str, Op]:
        if compiled:
            # Another shape would recompile, up to a limit behind which the eager form runs.
            torch._dynamo.reset()
            reference = torch.compile(subject.implementations[REFERENCE], fullgraph=True, dynamic=False)
            return {OURS: subject.implementations[OURS], COMPILED: reference}
        if self.peers is None:
            return dict(subject.implementations)
        return {name: op for name, op in subject.implementations.items() if name == OURS or name in self.peers}

    def _attempt(
        self, name: str, call: Call | None, exact: passes.Results, plain: passes.Results, indices: Sequence[int] | None
    ) -> _Attempt:
        if call is None:
            return _Attempt("refused", "torch.compile does not differentiate twice through a module")
        try:
            with warnings.catch_warnings():
                # A backend that is asked for by name says at length why it does not run; the error says so, too.
                warnings.simplefilter("ignore")
                errors, wrong = passes.check(passes.results_of(call, indices), exact, plain)
        except Exception as error:
            return _failure(name, error)
        return _Attempt("wrong", "; ".join(wrong), errors=errors) if wrong else _Attempt("ok", "", call, errors)

    def _time(self, ready: Mapping[str, Call]) -> dict[str, Timing]:
        if not ready:
            return {}
        limit = 2.0 if self.device.type == "cpu" else 30.0
        return measure(ready, self.timer, rounds=self.rounds, seconds=self.seconds, limit=limit, least_samples=2)

    def _numbers(self, timing: Timing, ours: Timing | None, cost: Cost | None, case: Case) -> dict[str, Any]:
        seconds = timing.median
        row: dict[str, Any] = {
            "ms": 1e3 * seconds,
            "p20_ms": 1e3 * timing.quantile(0.2),
            "p80_ms": 1e3 * timing.quantile(0.8),
            "samples": len(timing.samples),
            "round_ms": [1e3 * median for median in timing.round_medians],
            "spread": timing.spread,
            "ratio_to_ganfuse": None if ours is None else timing.over(ours),
        }
        if cost is not None:
            matmul = self.ceilings.matmul[case.dtype]
            row |= {
                "least_bytes": cost.bytes,
                "flops": cost.flops,
                "gb_s": cost.bytes / seconds / 1e9,
                "tflops": cost.flops / seconds / 1e12,
                "copy_share": cost.bytes / seconds / self.ceilings.copy,
                "matmul_share": cost.flops / seconds / matmul,
                "floor_share": cost.floor_seconds(self.ceilings.copy, matmul, self.ceilings.exp) / seconds,
            }
        return row


def _failure(name: str, error: Exception) -> _Attempt:
    lines = str(error).strip().splitlines() or [""]
    text = f"{type(error).__name__}: {lines[0]}"
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
        return _Attempt("no memory", text)
    # A peer may say no in any way that it likes; for us, saying no is a defect.
    return _Attempt("error" if name == OURS else "refused", text)
