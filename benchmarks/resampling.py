"""Resampling with FIR filters beside what public codebases write in plain PyTorch, at StyleGAN2's sites.

    python benchmarks/resampling.py                       # CPU; writes benchmarks/results/resampling-cpu.jsonl
    python benchmarks/resampling.py --device cuda         # bfloat16; benchmarks/results/new/resampling-cuda.jsonl
    python benchmarks/resampling.py --only skip --out /tmp/resampling.jsonl
    python benchmarks/resampling.py --report benchmarks/results/resampling-cpu.jsonl

Theirs inserts zeros, pads, and convolves with one group per channel. Forward; forward and backward; forward, backward
and the backward of that for the gradient, as a penalty has it. Both run in turn, in pairs of rounds: "ratio" is the
median over rounds of theirs / ours, "spread" how far the first half of our rounds is from the second. "copy" is the
share of the measured copy bandwidth at which the maps, each read or written once per pass, went by. Correctness comes
first: a result of ours farther from float64 than theirs by more than rounding gets no time.

Results are JSON lines, written as they come; the same command goes on where it stopped.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ganfuse.bench import records
from ganfuse.bench.ceilings import measure_ceilings
from ganfuse.bench.correctness import failures
from ganfuse.bench.timing import Call, make_timer, measure
from ganfuse.kernels import Cost, setup_filter, upfirdn2d
from ganfuse.kernels.upfirdn2d import cost

Op = Callable[[Tensor], Tensor]
_RESULTS = Path(__file__).resolve().parent / "results"
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Site(NamedTuple):
    """A call on square maps; `padding` is before and behind, on both axes."""

    channels: int
    side: int
    up: int = 1
    down: int = 1
    padding: tuple[int, int] = (1, 1)
    gain: float = 1.0


# Of StyleGAN2 at 256² (channels 16384 / resolution, 512 at most).
SITES = {
    "blur-257x64": Site(64, 257, gain=4.0),
    "blur-17x512": Site(512, 17, gain=4.0),
    "blur-64x256": Site(256, 64, padding=(2, 2)),
    "skip-down-256x64": Site(64, 256, down=2),
    "skip-down-32x512": Site(512, 32, down=2),
    "image-up-128x3": Site(3, 128, up=2, padding=(2, 1), gain=4.0),
    "up-64x256": Site(256, 64, up=2, padding=(2, 1), gain=4.0),
}


def _ours(site: Site, f: Tensor) -> Op:
    before, behind = site.padding

    def op(x: Tensor) -> Tensor:
        return upfirdn2d(x, f, site.up, site.down, [before, behind, before, behind], gain=site.gain)

    return op


def _plain(site: Site, f: Tensor) -> Op:
    """In the type of x, as the codebases do."""
    before, behind = site.padding

    def op(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        if site.up > 1:
            x = x.reshape(batch, channels, height, 1, width, 1)
            x = F.pad(x, [0, site.up - 1, 0, 0, 0, site.up - 1])
            x = x.reshape(batch, channels, height * site.up, width * site.up)
        x = F.pad(x, [before, behind, before, behind])
        weight = (f * site.gain).to(x.dtype).flip(0, 1).expand(channels, 1, *f.shape)
        x = F.conv2d(x, weight, groups=channels)
        return x[:, :, :: site.down, :: site.down] if site.down > 1 else x

    return op


def _forward(op: Op, x: Tensor, grad: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return (op(x),)


def _backward(op: Op, x: Tensor, grad: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
    y = op(x)
    return y, *torch.autograd.grad(y, x, grad)


def _second(op: Op, x: Tensor, grad: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
    y = op(x)
    (first,) = torch.autograd.grad(y, x, grad, create_graph=True)
    return y, first, *torch.autograd.grad(first, grad, cotangent)


# With what the least possible moves: one way, there and back, and there again.
PASSES = {"forward": (_forward, 1), "forward+backward": (_backward, 2), "forward+backward+second": (_second, 3)}


class Case(NamedTuple):
    site: str
    layout: str
    passes: str
    dtype: str
    batch: int

    @property
    def name(self) -> str:
        return f"{self.site}/{self.layout}/{self.passes}/{self.dtype}/batch{self.batch}"


def make_cases(device: str, batch: int | None) -> list[Case]:
    """All sites and passes; bfloat16 at batch 32 on a GPU, float32 at batch 4 on a CPU."""
    gpu = device == "cuda"
    batch = batch or (32 if gpu else 4)
    layouts, dtype = ("channels_last", "nchw"), "bf16" if gpu else "fp32"
    return [Case(s, lay, p, dtype, batch) for p in PASSES for s in SITES for lay in layouts]


def _inputs(case: Case, device: torch.device, dtype: torch.dtype, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, the gradient of the result, and a cotangent of x's gradient."""
    site = SITES[case.site]
    out = (site.side * site.up + sum(site.padding) - 4) // site.down + 1
    format = torch.channels_last if case.layout == "channels_last" else torch.contiguous_format
    generator = torch.Generator(device).manual_seed(0)

    def normal(side: int) -> Tensor:
        shape = (batch, site.channels, side, side)
        numbers = torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
        return numbers.to(_TYPES[case.dtype]).to(dtype).to(memory_format=format)

    return normal(site.side).requires_grad_(), normal(out).requires_grad_(), normal(site.side)


def _floor(case: Case) -> Cost:
    site = SITES[case.site]
    out = (site.side * site.up + sum(site.padding) - 4) // site.down + 1
    maps = case.batch * site.channels
    read, written, size = maps * site.side**2, maps * out**2, _TYPES[case.dtype].itemsize
    passes = (
        cost.forward(read, written, size, (4, 4), (site.up, site.up)),
        cost.backward(written, read, size, (4, 4), (site.down, site.down)),
        cost.forward(read, written, size, (4, 4), (site.up, site.up)),
    )
    return sum(passes[: PASSES[case.passes][1]], Cost(0, 0))


def _gate(case: Case, device: torch.device, ops: dict[str, Op]) -> tuple[dict[str, float], list[str]]:
    """Errors of ours, and what is wrong, on two samples."""
    run = PASSES[case.passes][0]
    names = ("output", "gradient", "second gradient")
    results = {
        which: {n: r.detach() for n, r in zip(names, run(ops[which], *_inputs(case, device, dtype, 2)))}
        for which, dtype in (("ganfuse", _TYPES[case.dtype]), ("plain", _TYPES[case.dtype]), ("exact", torch.float64))
    }
    return failures(results["ganfuse"], results["exact"], results["plain"])


def measure_case(
    case: Case, device: torch.device, *, rounds: int, seconds: float, copy: float | None = None
) -> dict[str, Any]:
    """One row of the result file; `copy` is the measured bandwidth, in bytes/s."""
    row: dict[str, Any] = {"kind": "row", "case": case.name, **case._asdict()}
    f = setup_filter([1, 3, 3, 1], device=device)
    site, run = SITES[case.site], PASSES[case.passes][0]
    ops = {"ganfuse": _ours(site, f), "plain": _plain(site, f)}
    errors, wrong = _gate(case, device, {**ops, "exact": ops["plain"]})
    row["errors"] = errors
    if wrong:
        return row | {"wrong": wrong}
    inputs = _inputs(case, device, _TYPES[case.dtype], case.batch)
    calls = {name: Call(lambda _, op=op: run(op, *inputs)) for name, op in ops.items()}
    timings = measure(calls, make_timer(device), rounds=rounds, seconds=seconds)
    ours = timings["ganfuse"]
    return row | {
        "ganfuse_ms": 1e3 * ours.median,
        "plain_ms": 1e3 * timings["plain"].median,
        "ratio": timings["plain"].over(ours),
        "spread": ours.spread,
        "copy_share": None if copy is None else _floor(case).bytes / ours.median / copy,
        "rounds": rounds,
    }


def report(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, and the geometric means of the ratios."""
    lines = [
        "| site | layout | passes | plain, ms | ganfuse, ms | plain / ganfuse | copy |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        what = f"| {row['site']} | {row['layout']} | {row['passes']} |"
        if row.get("wrong"):
            lines.append(f"{what} | wrong: {'; '.join(row['wrong'])} | | |")
            continue
        share = "" if row["copy_share"] is None else f"{100 * row['copy_share']:.0f} %"
        lines.append(f"{what} {row['plain_ms']:.3g} | {row['ganfuse_ms']:.3g} | {row['ratio']:.2f} | {share} |")
    for passes in PASSES:
        ratios = [row["ratio"] for row in rows if row["passes"] == passes and not row.get("wrong")]
        if ratios:
            mean = statistics.geometric_mean(ratios)
            lines.append(f"\n{passes}: ×{mean:.2f} in the geometric mean, ×{min(ratios):.2f} at the least")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="result file (JSON lines), or a folder for it")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--batch", type=int, help="default: 4 on a CPU, 32 on a GPU")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU. 1 (default): CPU time; more: wall time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1, help="that one implementation gets in one round")
    parser.add_argument("--restart", action="store_true", help="begin the file anew")
    parser.add_argument("--report", type=Path, metavar="FILE", help="print the table of a result file")
    args = parser.parse_args(argv)
    if args.report:
        print(report([r for r in records.read(args.report) if r["kind"] == "row"]))
        return 0
    if args.device == "cuda" and not torch.cuda.is_available():
        print("no GPU that PyTorch can use: --device cpu measures the CPU", file=sys.stderr)
        return 2
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    out = args.out or (_RESULTS if args.device == "cpu" else _RESULTS / "new")
    if out.suffix != ".jsonl":
        out = out / f"resampling-{args.device}.jsonl"
    about = records.header("resampling", device, f"python benchmarks/resampling.py --device {args.device}")
    try:
        file = records.ResultFile(out, about, restart=args.restart)
    except records.OtherRunError as error:
        print(error, file=sys.stderr)
        return 2
    there = {row["case"] for row in file.rows()}
    todo = [c for c in make_cases(args.device, args.batch) if args.only in c.name and c.name not in there]
    ceilings = measure_ceilings(device, make_timer(device), []) if todo and args.device == "cuda" else None
    if ceilings is not None:
        file.append(ceilings.record())
    for i, case in enumerate(todo, 1):
        print(f"[{i}/{len(todo)}] {case.name}", file=sys.stderr, flush=True)
        copy = None if ceilings is None else ceilings.copy
        file.append(measure_case(case, device, rounds=args.rounds, seconds=args.seconds, copy=copy))
    print(report(file.rows()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
