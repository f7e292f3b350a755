"""Norms with their activations on a CPU, beside what public codebases write in plain PyTorch.

    python benchmarks/norms_cpu.py                       # writes benchmarks/results/norms-cpu.jsonl
    python benchmarks/norms_cpu.py --only adalin --out /tmp/norms.jsonl
    python benchmarks/norms_cpu.py --report benchmarks/results/norms-cpu.jsonl

Conditional batch norm + ReLU (as in BigGAN's generator), AdaIN (StyleGAN's), AdaLIN + ReLU (U-GAT-IT's): forward and
backward, and forward, backward and second backward. In bfloat16, and on small maps, as tests and small models have
them, these and batch norm, group norm and instance norm + ReLU: layers should cost no more than what they replace.

Both run in turn, in pairs of rounds; "ratio" is the median over rounds of theirs / ours, "spread" how far the first
half of our rounds is from the second. Correctness comes first: a result of ours farther from the definition in float64
than twice theirs gets no time. Theirs are timed in any case, and marked where they are wrong: PyTorch 2.13's
F.instance_norm is, in the gradient of one channels_last sample.

Results are JSON lines, written as they come; the same command goes on where it stopped.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import norms_plain
from benchmarks.norms_plain import Norm
from ganfuse.bench import records
from ganfuse.bench.timing import Call, make_timer, measure
from ganfuse.kernels import use_backend

# Batch, channels, side: U-GAT-IT at 256² has its AdaLIN blocks there; a wide and a deep site of generators.
SHAPES = ((1, 256, 64), (16, 64, 64), (16, 512, 8))
SMALL_SHAPES = ((2, 8, 4), (8, 64, 4), (16, 64, 8), (32, 128, 8))
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# How wrong plain PyTorch may be to be what ours is measured by.
_WRONG = {"float32": 1e-3, "bfloat16": 0.1}
DEFAULT_OUT = Path(__file__).resolve().parent / "results" / "norms-cpu.jsonl"


NORMS: dict[str, tuple[Norm, Norm]] = {
    "bn+relu": (norms_plain.ours_batch_norm, norms_plain.batch_norm),
    "gn+relu": (norms_plain.ours_group_norm, norms_plain.group_norm),
    "in+relu": (norms_plain.ours_instance_norm, norms_plain.instance_norm),
    "cbn+relu": (norms_plain.ours_conditional_batch_norm, norms_plain.conditional_batch_norm),
    "adain": (norms_plain.ours_adain, norms_plain.adain),
    "adalin+relu": (norms_plain.ours_adalin, norms_plain.adalin),
}


def _backward(norm: Norm, inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(norm(*inputs), inputs[: _leaves(inputs)], grad)


def _second(norm: Norm, inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    """As a penalty on the gradient of the map has it."""
    (gradient,) = torch.autograd.grad(norm(*inputs), inputs[0], grad, create_graph=True)
    return torch.autograd.grad(gradient, inputs[: min(2, _leaves(inputs))], gradient.detach())


PASSES = {"forward+backward": _backward, "forward+backward+second": _second}


def _leaves(inputs: tuple[Tensor, ...]) -> int:
    return sum(x.requires_grad for x in inputs)


class Case(NamedTuple):
    norm: str
    shape: tuple[int, int, int]
    layout: str
    passes: str
    dtype: str = "float32"

    @property
    def name(self) -> str:
        batch, channels, side = self.shape
        narrow = "" if self.dtype == "float32" else f"/{self.dtype}"
        return f"{self.norm}/{batch}x{channels}x{side}x{side}/{self.layout}/{self.passes}{narrow}"


CASES = [
    *(
        Case(norm, shape, layout, passes)
        for passes in PASSES
        for norm in ("cbn+relu", "adain", "adalin+relu")
        for shape in SHAPES
        for layout in ("nchw", "channels_last")
    ),
    *(
        Case(norm, shape, layout, passes, "bfloat16")
        for passes in PASSES
        for norm in NORMS
        for shape in SHAPES
        for layout in ("nchw", "channels_last")
    ),
    *(
        Case(norm, shape, layout, passes, dtype)
        for passes in PASSES
        for norm in NORMS
        for shape in SMALL_SHAPES
        for layout, dtype in (("nchw", "float32"), ("channels_last", "float32"), ("channels_last", "bfloat16"))
    ),
]


def _inputs(case: Case, dtype: torch.dtype | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
    """(leaves and rho, a gradient of the output): the numbers of the case's type, in it or in `dtype`."""
    generator = torch.Generator().manual_seed(0)
    batch, channels, side = case.shape
    format = torch.channels_last if case.layout == "channels_last" else torch.contiguous_format
    narrow = TYPES[case.dtype]
    parameter = dtype or torch.float32

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x = normal(batch, channels, side, side).to(narrow).to(dtype or narrow, memory_format=format)
    grad = normal(batch, channels, side, side).to(narrow).to(dtype or narrow, memory_format=format)
    rows = (channels,) if case.norm in ("bn+relu", "gn+relu") else (batch, channels)
    leaves = (x, *(t.to(parameter) for t in (1 + 0.3 * normal(*rows), 0.3 * normal(*rows))))
    rho = torch.rand(channels, generator=generator).to(parameter)
    count = 1 if case.norm == "in+relu" else 4 if case.norm.startswith("adalin") else 3
    return tuple(t.requires_grad_(i < count) for i, t in enumerate((*leaves, rho))), grad


def _largest_errors(case: Case) -> tuple[float, float]:
    """Root mean square errors of the results, ours and theirs, relative to float64's: the worst of them."""
    run = PASSES[case.passes]
    ours, plain = NORMS[case.norm]
    with use_backend("reference"):
        exact = run(ours, *_inputs(case._replace(layout="nchw"), torch.float64))
    inputs, grad = _inputs(case)
    worst = []
    for norm in (ours, plain):
        results = run(norm, inputs, grad)
        worst.append(max(float((r.double() - e).norm() / e.norm()) for r, e in zip(results, exact, strict=True)))
    return worst[0], worst[1]


def measure_case(case: Case, *, rounds: int, seconds: float) -> dict[str, Any]:
    """One row of the result file."""
    row: dict[str, Any] = {"kind": "row", "case": case.name, **case._asdict()}
    mine, theirs = _largest_errors(case)
    row |= {"error": mine, "plain_error": theirs}
    if not mine <= max(2 * min(theirs, _WRONG[case.dtype]), 1e-5):
        return row | {"wrong": True}
    inputs, grad = _inputs(case)
    run = PASSES[case.passes]
    ours, plain = NORMS[case.norm]
    calls = {
        "ganfuse": Call(lambda _: run(ours, inputs, grad)),
        "plain": Call(lambda _: run(plain, inputs, grad)),
    }
    timings = measure(calls, make_timer(torch.device("cpu")), rounds=rounds, seconds=seconds)
    return row | {
        "ganfuse_ms": 1e3 * timings["ganfuse"].median,
        "plain_ms": 1e3 * timings["plain"].median,
        "ratio": timings["plain"].over(timings["ganfuse"]),
        "spread": timings["ganfuse"].spread,
        "rounds": rounds,
    }


def report(rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [
        "| norm | B×C×H×W | layout | type | passes | plain, ms | ganfuse, ms | plain / ganfuse |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        batch, channels, side = row["shape"]
        what = (
            f"| {row['norm']} | {batch}×{channels}×{side}×{side} | {row['layout']} | {row['dtype']} | {row['passes']} |"
        )
        if row.get("wrong"):
            lines.append(f"{what} | wrong: {row['error']:.1e} | |")
        else:
            theirs = " (wrong gradient)" if row["plain_error"] > 2 * _WRONG[row["dtype"]] else ""
            lines.append(f"{what} {row['plain_ms']:.3g}{theirs} | {row['ganfuse_ms']:.3g} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="result file (JSON lines)")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--threads", type=int, default=1, help="1 (default): CPU time; more: wall time")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.15, help="that one implementation gets in one round")
    parser.add_argument("--restart", action="store_true", help="begin the file anew")
    parser.add_argument("--report", type=Path, metavar="FILE", help="print the table of a result file")
    args = parser.parse_args(argv)
    if args.report:
        print(report([r for r in records.read(args.report) if r["kind"] == "row"]))
        return 0
    torch.set_num_threads(args.threads)
    about = records.header("norms-cpu", torch.device("cpu"), "python benchmarks/norms_cpu.py")
    try:
        file = records.ResultFile(args.out, about, restart=args.restart)
    except records.OtherRunError as error:
        print(error, file=sys.stderr)
        return 2
    there = {row["case"] for row in file.rows()}
    todo = [case for case in CASES if args.only in case.name and case.name not in there]
    for i, case in enumerate(todo, 1):
        print(f"[{i}/{len(todo)}] {case.name}", file=sys.stderr, flush=True)
        file.append(measure_case(case, rounds=args.rounds, seconds=args.seconds))
    print(report(file.rows()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
