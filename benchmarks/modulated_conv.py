"""StyleGAN2's synthesis blocks at 256², beside how public codebases compute them.

    python benchmarks/modulated_conv.py                        # on a CPU: float32, batch 4
    python benchmarks/modulated_conv.py --device cuda          # on a GPU: bfloat16, channels_last, batch 32
    python benchmarks/modulated_conv.py --only b64/ --out /tmp/new
    python benchmarks/modulated_conv.py --report benchmarks/results/modulated-conv-cpu.jsonl

A block is an upsampling layer, a layer and an image layer. "grouped" is what public codebases do without a compiled
extension: weights and their norms per sample, a grouped convolution, a filter, pass after pass behind it.
Passes: forward+backward; path length (the gradient for the styles, and the gradient of its square for everything); on
GPUs the forward alone, for the implicit product of matrices, and the epilogue, whose share of the copy bandwidth it is.
Implementations take turns, round after round; "ratio" is the median over rounds of theirs / ours. A first sample whose
results are farther from the definition in float64 than they may be gets no time (for float32, results in float64).

Results are JSON lines, written as they come; the same command goes on where it stopped.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.modulated_conv_blocks import (
    Block,
    Layer,
    blocks,
    ganfuse,
    grouped,
    make_filter,
    make_inputs,
    run_block,
    style_places,
)
from ganfuse.bench import records
from ganfuse.bench.ceilings import measure_ceilings
from ganfuse.bench.correctness import bound, relative_error
from ganfuse.bench.device_probes import count_launches, peak_bytes
from ganfuse.bench.timing import Call, Timer, make_timer, measure
from ganfuse.kernels import no_weight_gradients, use_backend
from ganfuse.kernels.scaled_bias_act import cost, scaled_bias_act

RESULTS = Path(__file__).resolve().parent / "results"
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# The forms that ours does not choose are timed beside the one that it does.
PROVIDERS: dict[str, Layer] = {
    "ganfuse": ganfuse(),
    "grouped": grouped,
    "ganfuse-scaled": ganfuse("scaled"),
    "ganfuse-grouped": ganfuse("grouped"),
    "ganfuse-implicit": ganfuse("implicit_gemm"),
}


def _forward(layer: Layer, block: Block, inputs: list[Tensor], f: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return run_block(layer, inputs, f)


def _backward(layer: Layer, block: Block, inputs: list[Tensor], f: Tensor) -> tuple[Tensor, ...]:
    outputs = run_block(layer, inputs, f)
    return torch.autograd.grad(outputs, inputs, [torch.ones_like(y) for y in outputs])


def _path_length(layer: Layer, block: Block, inputs: list[Tensor], f: Tensor) -> tuple[Tensor, ...]:
    outputs = run_block(layer, inputs, f)
    styles = [inputs[i] for i in style_places(block)]
    with no_weight_gradients():
        gradients = torch.autograd.grad(outputs, styles, [torch.ones_like(y) for y in outputs], create_graph=True)
    lengths = sum((g.square().sum() for g in gradients), start=gradients[0].new_zeros(()))
    return tuple(g for g in torch.autograd.grad(lengths, inputs, allow_unused=True) if g is not None)


Pass = Callable[[Layer, Block, list[Tensor], Tensor], tuple[Tensor, ...]]
PASSES: dict[str, Pass] = {"forward": _forward, "forward+backward": _backward, "path length": _path_length}


class Case(NamedTuple):
    """One block in one pass, or the epilogue of its layer."""

    block: Block
    passes: str

    @property
    def name(self) -> str:
        return f"{self.block.name}/{self.passes}"


class Setting(NamedTuple):
    """What all cases share."""

    device: torch.device
    dtype: torch.dtype
    channels_last: bool
    batch: int
    timer: Timer
    rounds: int
    seconds: float


def cases(device: torch.device) -> list[Case]:
    """All of them, the most important first."""
    passes = ["forward+backward", "path length"] + (["forward", "epilogue"] if device.type == "cuda" else [])
    return [Case(block, name) for name in passes for block in blocks()]


def providers(case: Case, device: torch.device, everything: bool) -> list[str]:
    """Who is timed at a case."""
    if not everything:
        return ["ganfuse", "grouped"]
    # The kernel's backward is that of "scaled", and it needs a GPU.
    implicit = device.type == "cuda" and case.passes == "forward"
    return [name for name in PROVIDERS if name != "ganfuse-implicit" or implicit]


def _errors(case: Case, names: list[str], setting: Setting) -> dict[str, tuple[float, float]]:
    """The largest relative error of each one's results, on one sample, and how large it may be.

    In float32 it is the errors in float64 that count, and may be 1e-10: a rounding more or less puts other numbers on
    the other side of the activation's kink, and that makes other gradients.
    """
    run = PASSES["forward" if case.passes == "forward" else "forward+backward"]
    f = make_filter(setting.device)
    inputs = make_inputs(case.block, 1, setting.device, setting.dtype, setting.channels_last)
    if setting.dtype == torch.float32:
        double = [t.detach().double().requires_grad_() for t in inputs]
        with use_backend("reference"):
            exact = run(ganfuse(), case.block, double, f)
        found = {name: run(PROVIDERS[name], case.block, double, f) for name in names}
        return {name: (max(map(relative_error, results, exact)), 1e-10) for name, results in found.items()}
    double = [t.detach().double().requires_grad_() for t in inputs]
    with use_backend("reference"):
        exact = run(ganfuse(), case.block, double, f)
        plain = run(ganfuse(), case.block, inputs, f)
    # Signs around the kinks of the activation are a matter of luck, for all.
    limits = [4.0 * bound(relative_error(p, e), setting.dtype) for p, e in zip(plain, exact)]
    errors = {}
    for name in names:
        results = run(PROVIDERS[name], case.block, inputs, f)
        pairs = [(relative_error(r, e), limit) for r, e, limit in zip(results, exact, limits, strict=True)]
        errors[name] = max(pairs, key=lambda pair: pair[0] / pair[1])
    return errors


def measure_block(case: Case, setting: Setting, everything: bool) -> list[dict[str, Any]]:
    """A row for each implementation."""
    names = providers(case, setting.device, everything)
    errors = _errors(case, names, setting)
    about = {"kind": "row", "case": case.name, "block": case.block.name, "pass": case.passes}
    rows = {name: {**about, "provider": name, "error": errors[name][0]} for name in names}
    right = [name for name in names if errors[name][0] <= errors[name][1]]
    for name in set(names) - set(right):
        rows[name]["wrong"] = True
    f = make_filter(setting.device)
    inputs = make_inputs(case.block, setting.batch, setting.device, setting.dtype, setting.channels_last)
    calls = {
        name: Call(lambda _, layer=PROVIDERS[name]: PASSES[case.passes](layer, case.block, inputs, f)) for name in right
    }
    timings = measure(calls, setting.timer, rounds=setting.rounds, seconds=setting.seconds)
    launches = count_launches(calls, setting.device)
    for name, timing in timings.items():
        rows[name] |= {"ms": 1e3 * timing.median, "spread": timing.spread, "rounds": setting.rounds}
        if "ganfuse" in timings:
            rows[name] |= {"ratio_to_ganfuse": timing.over(timings["ganfuse"])}
        peak = peak_bytes(calls[name], setting.device)
        rows[name] |= {} if peak is None else {"peak_bytes": peak}
        rows[name] |= {"launches": launches[name]} if name in launches else {}
    return list(rows.values())


def measure_epilogue(case: Case, setting: Setting, copy: float) -> list[dict[str, Any]]:
    """The pass behind a layer's convolution: its time, and the share of the copy bandwidth that its traffic has."""
    side, channels = case.block.resolution, case.block.outputs
    shape = (setting.batch, channels, side, side)
    format = torch.channels_last if setting.channels_last else torch.contiguous_format
    x = torch.randn(shape, device=setting.device).to(setting.dtype).contiguous(memory_format=format).requires_grad_()
    small = [
        torch.randn(s, device=setting.device, requires_grad=True)
        for s in (shape[:2], (setting.batch, 1, side, side), shape[1:2])
    ]
    y = scaled_bias_act(x, *small, act="lrelu")
    grad = torch.ones_like(y)
    calls = {
        "forward": Call(lambda _: scaled_bias_act(x.detach(), *small, act="lrelu")),
        "backward": Call(lambda _: torch.autograd.grad(y, (x, *small), grad, retain_graph=True)),
    }
    timings = measure(calls, setting.timer, rounds=setting.rounds, seconds=setting.seconds)
    rows = []
    for name, least in (("forward", cost.forward), ("backward", cost.backward)):
        moved = least(x.numel(), x.itemsize, "lrelu", small[1].numel()).bytes
        rows.append(
            {
                "kind": "row", "case": case.name, "block": case.block.name, "pass": f"epilogue {name}",
                "provider": "ganfuse", "ms": 1e3 * timings[name].median, "spread": timings[name].spread,
                "rounds": setting.rounds, "copy_share": moved / timings[name].median / copy,
            }
        )  # fmt: skip
    return rows


def report(rows: list[dict[str, Any]]) -> str:
    """Markdown: a table of times and ratios, and their geometric means."""
    lines = ["| block | pass | implementation | ms | over ganfuse | share of copy |", "|---|---|---|---|---|---|"]
    ratios: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        what = f"| {row['block']} | {row['pass']} | {row['provider']} |"
        if row.get("wrong"):
            lines.append(f"{what} wrong: {row['error']:.1e} | | |")
            continue
        ratio, share = row.get("ratio_to_ganfuse"), row.get("copy_share")
        lines.append(
            f"{what} {row['ms']:.3g} | {'' if ratio is None else f'{ratio:.2f}'} | "
            f"{'' if share is None else f'{share:.0%}'} |"
        )
        if ratio is not None and row["provider"] != "ganfuse":
            ratios.setdefault((row["pass"], row["provider"]), []).append(ratio)
    for (name, provider), values in ratios.items():
        mean = math.exp(sum(map(math.log, values)) / len(values))
        lines.append(
            f"\n{provider}, {name}: {mean:.2f} times our time in the geometric mean, {min(values):.2f} at the least."
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=_TYPES, help="fp32 on CPUs, bf16 on GPUs")
    parser.add_argument("--batch", type=int, help="4 on CPUs, 32 on GPUs")
    parser.add_argument("--nchw", action="store_true", help="on GPUs, too, where channels_last is the default")
    parser.add_argument("--out", type=Path, default=RESULTS / "new", help="folder of the result file")
    parser.add_argument("--only", default="", help="cases whose name contains this (b64/, path length, ...)")
    parser.add_argument("--all", action="store_true", help="every form of ours; on GPUs always")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU: 1 (default): CPU time; more: wall time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.2, help="that one implementation gets in one round")
    parser.add_argument("--restart", action="store_true", help="begin the file anew")
    parser.add_argument("--report", type=Path, metavar="FILE", help="print the table of a result file")
    args = parser.parse_args(argv)
    if args.report:
        print(report([r for r in records.read(args.report) if r["kind"] == "row"]))
        return 0
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    gpu = device.type == "cuda"
    dtype = _TYPES[args.dtype or ("bf16" if gpu else "fp32")]
    timer = make_timer(device)
    setting = Setting(
        device, dtype, gpu and not args.nchw, args.batch or (32 if gpu else 4), timer, args.rounds, args.seconds
    )
    command = f"python benchmarks/modulated_conv.py --device {args.device} --batch {setting.batch}"
    about = records.header("modulated-conv", device, command) | {"batch": setting.batch, "dtype": str(dtype)}
    try:
        file = records.ResultFile(args.out / f"modulated-conv-{device.type}.jsonl", about, restart=args.restart)
    except records.OtherRunError as error:
        print(error, file=sys.stderr)
        return 2
    there = {row["case"] for row in file.rows()}
    todo = [case for case in cases(device) if args.only in case.name and case.name not in there]
    copy = 0.0
    if any(case.passes == "epilogue" for case in todo):
        ceilings = measure_ceilings(device, timer, ())
        copy = ceilings.copy
        file.append(ceilings.record())
    for i, case in enumerate(todo, 1):
        print(f"[{i}/{len(todo)}] {case.name}", file=sys.stderr, flush=True)
        if case.passes == "epilogue":
            rows = measure_epilogue(case, setting, copy)
        else:
            rows = measure_block(case, setting, args.all or gpu)
        for row in rows:
            file.append(row)
    print(report([r for r in file.rows() if r["kind"] == "row"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
