"""Attention: ganfuse beside plain PyTorch, PyTorch's fused attention and torch.compile, on this machine.

    python benchmarks/attention.py --out benchmarks/results/new
    python benchmarks/attention.py --device cpu --only n1024
    python benchmarks/attention.py --report benchmarks/results/attention-cpu.jsonl

Correctness comes first: what is wrong against float64 gets no time. Results are JSON lines, written as they come; the
same command goes on where it stopped. benchmarks/results/README.md explains every field.
"""

import argparse
import fnmatch
import logging
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import attention_report
from benchmarks.attention_cases import CPU_CASES, GPU_CASES, Case
from benchmarks.attention_passes import PASSES
from benchmarks.attention_providers import COMPILED, OURS, PROVIDERS
from benchmarks.attention_runner import ContextLostError, Runner
from benchmarks.attention_warmup import compile_ahead
from ganfuse.bench import records
from ganfuse.bench.ceilings import measure_ceilings
from ganfuse.bench.device_probes import gpu_state
from ganfuse.bench.timing import make_timer

Plan = list[tuple[Case, list[str]]]

# When the first process of a run began: a crash goes on in a new one, and the time limit is for all of them.
_BEGAN = "GANFUSE_BENCHMARK_BEGAN"
_CPU_PROVIDERS = (OURS, "bmm-tokens", "bmm-channels", "sdpa", "sdpa-flash")
# Where torch.compile is measured too, which takes longer to compile than everything else takes to run.
_COMPILED_CASES = ("sagan128-*/bf16/*", "wide-64-d64-e256/bf16/channels_last", "biggan128-g-*/bf16/channels_last")


def make_plan(args: argparse.Namespace, gpu: bool) -> Plan:
    """(case, implementations) in the order in which they are measured, torch.compile apart from the quick ones."""
    providers = args.providers or (PROVIDERS if gpu else _CPU_PROVIDERS)
    patterns = [f"*{pattern}*" for pattern in args.only or [""]]
    plan = []
    for case in GPU_CASES if gpu else CPU_CASES:
        names = [p for p in providers if _matches(f"{case.name}/{p}", patterns)]
        if not args.providers:
            # The same as bmm-channels up to names: once for the goals is enough.
            names = [p for p in names if p != "reference" or case.goal]
        plan.append((case, [p for p in names if p not in COMPILED]))
        if args.providers or _matches(case.name, _COMPILED_CASES):
            plan.append((case, [p for p in names if p in COMPILED]))
    return [(case, names) for case, names in plan if names]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def missing(plan: Plan, rows: list[dict[str, Any]]) -> Plan:
    """What of the plan has no rows yet."""
    there = {(row["case"], row["provider"], row["pass"]) for row in rows}
    left = [(c, [p for p in names if any((c.name, p, w) not in there for w in PASSES)]) for c, names in plan]
    return [(case, names) for case, names in left if names]


def _command(argv: list[str]) -> str:
    """The command without the place where results go."""
    shown, skip = [], False
    for argument in argv:
        if not skip and not argument.startswith("--out"):
            shown.append(argument)
        skip = argument == "--out"
    return " ".join(["python benchmarks/attention.py", *shown])


def report(all_records: list[dict[str, Any]]) -> str:
    """What the terminal shows at the end."""
    rows = records.joined_rows(all_records)
    about = all_records[0]
    device_type = "cuda" if "cuda" in about else "cpu"
    parts = [
        f"{about['device']}, PyTorch {about['torch']}, Triton {about['triton']}, commit {about['commit'][:12]}",
        attention_report.summary(rows),
        attention_report.host_table(all_records),
        attention_report.spread_line(rows),
        "\n".join(map(str, attention_report.goals(rows, device_type))),
    ]
    return "\n\n".join(part for part in parts if part)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/new"), help="folder, or a .jsonl file")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--only", nargs="+", metavar="PATTERN", help="parts of SITE/TYPE/LAYOUT/IMPLEMENTATION, or *")
    parser.add_argument("--providers", nargs="+", choices=PROVIDERS, metavar="NAME", help=", ".join(PROVIDERS))
    parser.add_argument("--threads", type=int, metavar="N", help="of PyTorch on a CPU; 1 on a machine that is busy")
    parser.add_argument("--minutes", type=float, help="begin no new case after that (GPU: 5; 0: no limit)")
    parser.add_argument("--restart", action="store_true", help="throw away the results that are there")
    parser.add_argument("--list", action="store_true", help="print what would be measured")
    parser.add_argument("--report", type=Path, metavar="FILE", help="print the tables of a result file")
    args = parser.parse_args(argv)
    if args.threads is not None and args.threads < 1:
        parser.error(f"--threads must be at least 1, got {args.threads}")
    if args.providers:
        args.providers = list(dict.fromkeys(args.providers))
    return args


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    if args.report:
        return _report(args.report)
    gpu = args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available())
    plan = make_plan(args, gpu)
    if not plan:
        return _fail(f"nothing matches {' '.join(args.only)}: --list shows what there is")
    if args.list:
        for case, names in plan:
            print(f"{case.name}: {' '.join(names)}")
        return 0
    if gpu and not torch.cuda.is_available():
        return _fail("no GPU that PyTorch can use: --device cpu measures the CPU")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
    about = records.header("attention", device, _command(sys.argv[1:] if argv is None else argv))
    # Set by the process that went before, if a kernel crashed it: this one goes on with what it wrote.
    earlier = os.environ.pop(_BEGAN, None)
    began = float(earlier or time.time())
    try:
        results = records.ResultFile(
            records.result_path(args.out, "attention", device), about, restart=args.restart and earlier is None
        )
    except records.OtherRunError as error:
        return _fail(str(error))
    minutes = args.minutes if args.minutes is not None else (5.0 if gpu else 0.0)
    left = _measure(plan, results, device, began, began + 60 * minutes if minutes else float("inf"))
    text = report(results.records)
    tables = results.path.with_suffix(".txt")
    tables.write_text(f"{attention_report.full_tables(results.rows())}\n\n{text}\n", encoding="utf-8")
    print(f"\n{text}\n\nrows in {results.path}, tables in {tables}")
    if left:
        print(f"the time is up: {left} of {len(plan)} are left; the same command measures them")
    return 0


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


def _report(path: Path) -> int:
    try:
        all_records = records.read(path)
    except (OSError, ValueError) as error:
        return _fail(f"--report: {error}")
    if not all_records or all_records[0].get("benchmark") != "attention":
        return _fail(f"--report: {path} is no result file of this benchmark")
    rows = records.joined_rows(all_records)
    print(f"{attention_report.full_tables(rows)}\n\n{report(all_records)}")
    return 0


def _measure(plan: Plan, results: records.ResultFile, device: torch.device, began: float, deadline: float) -> int:
    """Measure what is missing until the time is up; returns how many cases are left."""
    todo = missing(plan, results.rows())
    print(f"{results.path}: {len(plan) - len(todo)} of {len(plan)} are there", flush=True)
    if not todo:
        return 0
    if device.type == "cuda":
        # It reports each recompilation that a new shape asks for.
        logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
        _compile_ahead(todo, deadline)
    timer = make_timer(device)
    ceilings = measure_ceilings(device, timer, sorted({case.dtype for case, _ in plan}))
    results.append({**ceilings.record(), **gpu_state(device)})
    runner = Runner(device, results, timer, ceilings)
    if device.type == "cuda" and not any(record["kind"] == "host" for record in results.records):
        runner.measure_host()
    for number, (case, names) in enumerate(todo):
        if time.time() > deadline:
            return len(todo) - number
        print(f"[{number + 1}/{len(todo)}] {case.name}", flush=True)
        try:
            runner.run(case, names)
        except ContextLostError as error:
            print(f"  a kernel crashed ({error}): going on in a fresh process", flush=True)
            os.environ[_BEGAN] = str(began)
            os.execv(sys.executable, [sys.executable, *sys.argv])
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return 0


def _compile_ahead(todo: Plan, deadline: float) -> None:
    start = time.time()
    jobs = [(case, p) for case, names in todo for p in names if p == OURS or p in COMPILED]
    for problem in compile_ahead(jobs, seconds=min(120.0, max(1.0, (deadline - start) / 2))):
        print(f"  {problem}", flush=True)
    print(f"compiled ahead: {len(jobs)} in {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    # Here and in the processes that compile ahead, so that all read the same cache; what is in it needs no threads.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    sys.exit(main())
