"""Norms, pixel norm and bias_act on a GPU: ganfuse beside plain PyTorch and torch.compile of the reference.

    python benchmarks/norms.py --out benchmarks/results/new
    python benchmarks/norms.py --only 'biggan128/cbn-192*'
    python benchmarks/norms.py --report benchmarks/results/norms-nvidia-h200.jsonl

Correctness comes first: what is wrong against float64 gets no time. Results are JSON lines, written as they come; the
same command goes on where it stopped. "reference" is the definition in plain PyTorch, "plain" what public codebases
write (F.batch_norm, F.instance_norm), "compile" torch.compile of the reference. Shares are of the bytes of cost.py, at
the copy bandwidth measured in the same run.
"""

import argparse
import fnmatch
import logging
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.norms_cases import GPU_CASES, Case, Op, make_inputs, ours, plain
from ganfuse.bench import correctness, records
from ganfuse.bench.ceilings import Ceilings, measure_ceilings
from ganfuse.bench.device_probes import count_launches, gpu_state
from ganfuse.bench.timing import Call, Timer, make_timer, measure

OURS = "ganfuse"
QUICK = (OURS, "reference", "plain")
PROVIDERS = (*QUICK, "compile")
PASSES = ("forward", "backward", "forward_backward", "double_backward")
# Bandwidth that the large sites are meant to reach, as a share of a copy's.
GOAL_SHARE = 0.85


def build(provider: str, case: Case, device: torch.device) -> Op:
    """An implementation of the case's op."""
    if provider == OURS:
        return ours(case.op, "triton" if device.type == "cuda" else "auto")
    if provider == "plain":
        return plain(case.op)
    reference = ours(case.op, "reference")
    return torch.compile(reference, fullgraph=True, dynamic=False) if provider == "compile" else reference


def calls(op: Op, inputs: Sequence[Tensor], grad: Tensor, *, second: bool) -> dict[str, Call]:
    """What to time: results are the output, the gradients, and the gradients of ‖∂x‖²/2's gradient for all of them."""
    leaves = [t for t in inputs if t.requires_grad]

    def forward(_: object) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (op(*inputs),)

    def backward(output: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(output, leaves, grad)

    def first() -> Tensor:
        (gradient,) = torch.autograd.grad(op(*inputs), leaves[0], grad, create_graph=True)
        return gradient

    def double_backward(gradient: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(gradient, leaves, gradient.detach(), allow_unused=True)

    made = {
        "forward": Call(forward),
        "backward": Call(backward, lambda: op(*inputs)),
        "forward_backward": Call(lambda _: backward(op(*inputs))),
    }
    return {**made, "double_backward": Call(double_backward, first)} if second else made


def _results(call: Call) -> dict[str, Tensor]:
    return {str(i): t.detach() for i, t in enumerate(call.run(call.prepare())) if t is not None}


def _wide(inputs: Sequence[Tensor], grad: Tensor) -> tuple[list[Tensor], Tensor]:
    return [t.detach().double().requires_grad_(t.requires_grad) for t in inputs], grad.double()


class Runner:
    """Measures cases and writes their rows."""

    def __init__(self, device: torch.device, results: records.ResultFile, timer: Timer, ceilings: Ceilings) -> None:
        self.device, self.results, self.timer, self.ceilings = device, results, timer, ceilings

    def run(self, case: Case, providers: Sequence[str]) -> None:
        """Measure `providers` at a case, beside ours."""
        torch._dynamo.reset()
        inputs, grad = make_inputs(case, self.device)
        reference = ours(case.op, "reference")
        truths = calls(reference, *_wide(inputs, grad), second=True)
        in_type = calls(reference, inputs, grad, second=True)
        ready: dict[str, dict[str, Call]] = {}
        said: dict[tuple[str, str], dict[str, Any]] = {}
        for provider in dict.fromkeys((OURS, *providers)):
            # torch.compile has no second derivative.
            ready[provider] = calls(build(provider, case, self.device), inputs, grad, second=provider != "compile")
        for which in PASSES:
            exact, rounded = _results(truths[which]), _results(in_type[which])
            for provider, possible in ready.items():
                said[provider, which] = self._check(possible.get(which), exact, rounded)
            del exact, rounded
        if not any(r["kind"] == "case" and r["case"] == case.name for r in self.results.records):
            shape = {k: v for k, v in asdict(case).items() if k != "goal"}
            self.results.append({"kind": "case", "case": case.name, "goal": case.goal, "shape": shape})
        rows = {}
        for which in PASSES:
            timed = {p: ready[p][which] for p in ready if said[p, which]["status"] == "ok"}
            rows[which] = self._measure(case, which, timed) if timed else {}
        for provider in providers:
            right = {w: ready[provider][w] for w in PASSES if said[provider, w]["status"] == "ok"}
            launches = count_launches(right, self.device)
            for which in PASSES:
                row = {"kind": "row", "case": case.name, "provider": provider, "pass": which}
                row |= said[provider, which] | rows[which].get(provider, {})
                if which in right:
                    row["launches"] = launches.get(which)
                self.results.append(row)

    def _check(self, call: Call | None, exact: Mapping[str, Tensor], plain: Mapping[str, Tensor]) -> dict[str, Any]:
        if call is None:
            return {"status": "refused", "reason": "torch.compile does not differentiate twice through a module"}
        try:
            found = _results(call)
            # Zeros have no relative error: a bias's second derivative.
            names = [n for n in found if n in exact and float(exact[n].norm()) > 1e-6]
            errors, wrong = correctness.failures({n: found[n] for n in names}, exact, plain)
        except torch.OutOfMemoryError as error:
            return {"status": "no memory", "reason": str(error).splitlines()[0]}
        except Exception as error:
            return {"status": "error", "reason": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
        if wrong:
            return {"status": "wrong", "reason": "; ".join(wrong)}
        return {"status": "ok", "errors": errors}

    def _measure(self, case: Case, which: str, timed: Mapping[str, Call]) -> dict[str, dict[str, Any]]:
        rounds, seconds = (3, 0.02) if self.device.type == "cuda" else (2, 0.001)
        timings = measure(timed, self.timer, rounds=rounds, seconds=seconds, least_samples=4)
        cost = case.costs(self.device)[which]
        rows = {}
        for provider, timing in timings.items():
            mine = timings.get(OURS)
            host = timed[provider].host_seconds
            rows[provider] = {
                "ms": 1e3 * timing.median,
                "p20_ms": 1e3 * timing.quantile(0.2),
                "p80_ms": 1e3 * timing.quantile(0.8),
                "samples": len(timing.samples),
                "spread": timing.spread,
                "ratio_to_ganfuse": None if mine is None else timing.over(mine),
                "host_us": None if host is None else 1e6 * host,
                "copy_share": cost.bytes / timing.median / self.ceilings.copy,
            }
        return rows


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per case and pass, and which goals are met."""
    head = f"{'case':<46}{'pass':<17}{'ms':>9}{'%copy':>7}{'n':>4}{'ref':>7}{'plain':>7}{'compile':>9}"
    lines = [f"{head}  (n launches; their time / ours)"]
    verdicts: dict[str, list[str]] = {"met": [], "missed": [], "not measured": []}
    found = {(r["case"], r["provider"], r["pass"]): r for r in rows}
    for case in dict.fromkeys(r["case"] for r in rows):
        for which in PASSES:
            mine = found.get((case, OURS, which))
            if mine is None or mine["status"] != "ok":
                if mine is not None:
                    lines.append(f"{case:<46}{which:<17}{mine['status']}: {mine.get('reason', '')}")
                continue
            peers = [found.get((case, p, which), {}) for p in PROVIDERS[1:]]
            ratios = [p.get("ratio_to_ganfuse") for p in peers]
            cells = "".join(f"{'-' if r is None else f'x{r:.2f}':>{w}}" for r, w in zip(ratios, (7, 7, 9)))
            launches = "-" if mine.get("launches") is None else str(mine["launches"])
            lines.append(f"{case:<46}{which:<17}{mine['ms']:>9.4f}{100 * mine['copy_share']:>7.0f}{launches:>4}{cells}")
            if mine["goal"] and which in ("forward", "backward"):
                slow = [f"{p} x{r:.2f}" for p, r in zip(PROVIDERS[1:], ratios) if r is not None and r < 1]
                share = mine["copy_share"]
                texts = [f"{100 * share:.0f} % of a copy"] * (share < GOAL_SHARE) + slow
                known = all(r is not None for r in ratios)
                verdict = "missed" if texts else "met" if known else "not measured"
                verdicts[verdict].append(f"{case} {which}: {', '.join(texts) or 'a peer is missing'}")
    lines.append("")
    lines.append(f"{100 * GOAL_SHARE:.0f} % of a copy's bandwidth and ahead of every peer, forward and backward:")
    lines.append(", ".join(f"{name} {len(items)}" for name, items in verdicts.items()))
    lines += [f"    {name}: {item}" for name in ("missed", "not measured") for item in verdicts[name]]
    return "\n".join(lines)


def make_plan(only: Sequence[str], providers: Sequence[str], cases: Sequence[Case]) -> list[tuple[Case, list[str]]]:
    """(case, implementations): the quick ones of all cases first, then torch.compile, which takes long to compile."""
    patterns = [f"*{pattern}*" for pattern in only or [""]]
    chosen = [case for case in cases if any(fnmatch.fnmatchcase(case.name, p) for p in patterns)]
    halves = [[p for p in providers if (p == "compile") is late] for late in (False, True)]
    return [(case, names) for names in halves if names for case in chosen]


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/new"), help="folder, or a .jsonl file")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--only", nargs="+", metavar="PATTERN", help="parts of SITE/OP-C-SIDE/TYPE/LAYOUT, or *")
    parser.add_argument("--providers", nargs="+", choices=PROVIDERS, default=PROVIDERS)
    parser.add_argument("--minutes", type=float, default=5.0, help="begin no new case after that (0: no limit)")
    parser.add_argument("--restart", action="store_true", help="throw away the results that are there")
    parser.add_argument("--list", action="store_true", help="print what would be measured")
    parser.add_argument("--report", type=Path, metavar="FILE", help="print the table of a result file")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    if args.report:
        print(report(records.joined_rows(records.read(args.report))))
        return 0
    gpu = args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available())
    plan = make_plan(args.only, args.providers, GPU_CASES)
    if not plan:
        return _fail(f"nothing matches {' '.join(args.only)}: --list shows what there is")
    if args.list:
        print("\n".join(f"{case.name}: {' '.join(names)}" for case, names in plan))
        return 0
    if gpu and not torch.cuda.is_available():
        return _fail("no GPU that PyTorch can use: --device cpu runs the same on the CPU")
    device = torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
    slug = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(device).lower()).strip("-") if gpu else "cpu-smoke"
    path = args.out if args.out.suffix == ".jsonl" else args.out / f"norms-{slug}.jsonl"
    about = records.header("norms", device, "python benchmarks/norms.py")
    try:
        results = records.ResultFile(path, about, restart=args.restart)
    except records.OtherRunError as error:
        return _fail(str(error))
    there = {(row["case"], row["provider"]) for row in results.rows()}
    todo = [(case, [p for p in names if (case.name, p) not in there]) for case, names in plan]
    todo = [(case, names) for case, names in todo if names]
    left = _run(todo, device, results, args.minutes)
    print(f"\n{report(results.rows())}\n\nrows in {path}")
    if left:
        print(f"the time is up: {left} of {len(plan)} are left; the same command measures them")
    return 0


def _run(todo: list[tuple[Case, list[str]]], device: torch.device, results: records.ResultFile, minutes: float) -> int:
    """Measure what is missing until the time is up; returns how many cases are left."""
    if not todo:
        return 0
    if device.type == "cuda":
        # It reports each recompilation that a new shape asks for.
        logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    began = time.time()
    timer = make_timer(device)
    ceilings = measure_ceilings(device, timer, ["bf16"] if device.type == "cuda" else [])
    results.append({**ceilings.record(), **gpu_state(device)})
    runner = Runner(device, results, timer, ceilings)
    for number, (case, names) in enumerate(todo):
        if minutes and time.time() - began > 60 * minutes:
            return len(todo) - number
        print(f"[{number + 1}/{len(todo)}] {case.name}: {' '.join(names)}", flush=True)
        runner.run(case, names)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return 0


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
