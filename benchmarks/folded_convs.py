"""Convolutions beside 2× resampling at the low resolution, beside interpolate + conv and conv + average pool.

    python benchmarks/folded_convs.py                    # CPU: writes benchmarks/results/new/folded-convs-cpu.jsonl
    python benchmarks/folded_convs.py --device cuda --out DIR
    python benchmarks/folded_convs.py --report benchmarks/results/new/folded-convs-cpu.jsonl

The residual blocks of BigGAN-64 (Brock et al. 2019, tables 5 and 6; without spectral normalisation, which is no part of
this), forward and backward; their 3×3 convolutions next to the resampling alone, in both layouts; and convolutions of
ever fewer pixels, down to where folding a kernel costs more than it saves. "plain" is what public codebases write, all
at the high resolution. "ratio" is the median over rounds of plain / folded: above 1, folded is faster; "taken" is plain
over what ``form="auto"`` takes, by its rule. Right first: a folded result more than a few times as far from float64 as
the plain one gets no time.

Results are JSON lines, written as they come; the same command goes on where it stopped.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ganfuse.bench import records
from ganfuse.bench.correctness import failures, relative_error
from ganfuse.bench.timing import Call, make_timer, measure
from ganfuse.engine.layers import Conv2dDownsample, UpsampleConv2d
from ganfuse.kernels.resampled_conv2d.choice import folds
from ganfuse.models.blocks import DownBlock, UpBlock
from ganfuse.models.layer_factory import LayerFactory

RESULTS = Path(__file__).resolve().parent / "results" / "new"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_LAYERS = LayerFactory(spectral=False)
_RESAMPLED = (UpsampleConv2d, Conv2dDownsample)


class Case(NamedTuple):
    """`side` is that of the low resolution; `what` is "block" or "conv"."""

    what: str
    way: str
    batch: int
    inputs: int
    outputs: int
    side: int
    layout: str
    dtype: str

    @property
    def name(self) -> str:
        shape = f"{self.batch}x{self.inputs}-{self.outputs}x{self.side}x{self.side}"
        return f"{self.what}/{self.way}/{shape}/{self.layout}/{self.dtype}"


def cases(ch: int, batch: int, dtypes: list[str]) -> Iterator[Case]:
    """BigGAN-64's blocks with that width and batch, and the scan of the rule."""
    up = [(16, 16, 4), (16, 8, 8), (8, 4, 16), (4, 2, 32)]
    down = [(0, 1, 32), (1, 2, 16), (2, 4, 8), (4, 8, 4)]
    for dtype in dtypes:
        for way, sites in (("up", up), ("down", down)):
            for first, second, side in sites:
                yield Case("block", way, batch, first * ch or 3, second * ch, side, "channels_last", dtype)
            for first, second, side in sites:
                # The 3×3 convolution of a discriminator's block that is next to the mean is its second.
                inputs = first * ch if way == "up" else second * ch
                for layout in ("nchw", "channels_last"):
                    yield Case("conv", way, batch, inputs, second * ch, side, layout, dtype)
            for pixels in (16, 64, 256, 1024, 4096):
                for layout in ("nchw", "channels_last"):
                    yield Case("conv", way, pixels // 16, 2 * ch, 2 * ch, 4, layout, dtype)


def make(case: Case, device: torch.device) -> nn.Module:
    """The block or layer of a case, the same for every type."""
    torch.manual_seed(0)
    if case.what == "conv":
        kind = UpsampleConv2d if case.way == "up" else Conv2dDownsample
        layer: nn.Module = kind(case.inputs, case.outputs, 3)
        if case.layout == "channels_last":
            layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    elif case.way == "up":
        layer = UpBlock(case.inputs, case.outputs, norm=_LAYERS.batch_norm, layers=_LAYERS)
    else:
        layer = DownBlock(case.inputs, case.outputs, preactivation=case.inputs != 3, layers=_LAYERS)
    return layer.to(device)


def _maps(case: Case, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Input and gradient of the output."""
    generator = torch.Generator().manual_seed(1)
    format = torch.channels_last if case.layout == "channels_last" else torch.contiguous_format

    def normal(channels: int, side: int) -> Tensor:
        x = torch.randn(case.batch, channels, side, side, generator=generator)
        return x.to(device, dtype).contiguous(memory_format=format)

    sides = (case.side, 2 * case.side) if case.way == "up" else (2 * case.side, case.side)
    return normal(case.inputs, sides[0]).requires_grad_(), normal(case.outputs, sides[1])


def _forward_backward(layer: nn.Module, form: str, x: Tensor, grad: Tensor) -> Callable[[Any], tuple[Tensor, ...]]:
    leaves = [x, *layer.parameters()]

    def run(_: object) -> tuple[Tensor, ...]:
        for module in layer.modules():
            if isinstance(module, _RESAMPLED):
                module.form = form
        y = layer(x)
        return (y, *torch.autograd.grad(y, leaves, grad))

    return run


def _wrong(case: Case, device: torch.device) -> list[str]:
    """A sentence for each result of the folded form that is not right.

    Blocks are compared in float64, to ten digits: a rounding more or less lets other ReLUs through, and that makes
    other gradients.
    """
    found, own = {}, torch.float64 if case.what == "block" else DTYPES[case.dtype]
    for name, form, dtype in (("exact", "plain", torch.float64), ("plain", "plain", own), ("folded", "folded", own)):
        layer = make(case, device).to(dtype)
        x, grad = _maps(case, device, dtype)
        results = _forward_backward(layer, form, x, grad)(None)
        # Biases in front of a batch norm have no gradient but rounding.
        found[name] = {str(i): r.detach() for i, r in enumerate(results) if r.ndim == 4}
    if case.what == "block":
        errors = {name: relative_error(x, found["exact"][name]) for name, x in found["folded"].items()}
        return [f"{name}: relative error {error:.2g} in float64" for name, error in errors.items() if not error < 1e-10]
    return failures(found["folded"], found["exact"], found["plain"])[1]


def _takes_folded(case: Case, x: Tensor, layer: nn.Module) -> bool:
    weight = next(m.weight for m in layer.modules() if isinstance(m, _RESAMPLED) and m.kernel_size == (3, 3))
    return folds("auto", x, weight, case.side, case.side)


def measure_case(case: Case, device: torch.device, *, rounds: int, seconds: float) -> dict[str, Any]:
    """One row of the result file."""
    row: dict[str, Any] = {"kind": "row", "case": case.name, **case._asdict()}
    wrong = _wrong(case, device)
    if wrong:
        return row | {"wrong": wrong}
    dtype = DTYPES[case.dtype]
    layer = make(case, device).to(dtype)
    x, grad = _maps(case, device, dtype)
    takes = "folded" if _takes_folded(case, x, layer) else "plain"
    # A block whose 3×3 convolution runs as it is written still has its 1×1 convolution at the low resolution.
    forms = ["plain", "folded", *(["auto"] if takes == "plain" and case.what == "block" else [])]
    calls = {form: Call(_forward_backward(layer, form, x, grad)) for form in forms}
    timings = measure(calls, make_timer(device), rounds=rounds, seconds=seconds)
    return row | {
        "plain_ms": 1e3 * timings["plain"].median,
        "folded_ms": 1e3 * timings["folded"].median,
        "ratio": timings["plain"].over(timings["folded"]),
        "takes": takes,
        "taken": timings["plain"].over(timings[forms[-1] if len(forms) > 2 else takes]),
        "spread": timings["folded"].spread,
        "rounds": rounds,
    }


def report(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, and the geometric mean and the least of the blocks."""
    lines = [
        "| what | B, Cin → Cout, low H×W | layout | type | plain, ms | folded, ms | plain / folded | auto |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shape = f"{row['batch']}, {row['inputs']} → {row['outputs']}, {row['side']}×{row['side']}"
        what = f"| {row['way']} {row['what']} | {shape} | {row['layout']} | {row['dtype']} |"
        if "wrong" in row:
            lines.append(f"{what} wrong: {'; '.join(row['wrong'])} | | | |")
        else:
            times = f"{row['plain_ms']:.2f} | {row['folded_ms']:.2f} | {row['ratio']:.2f} | {row['takes']}"
            lines.append(f"{what} {times} |")
    for dtype in DTYPES:
        taken = [r["taken"] for r in rows if r["what"] == "block" and r["dtype"] == dtype and "taken" in r]
        if taken:
            mean = math.exp(sum(map(math.log, taken)) / len(taken))
            lines.append(f"\n{dtype} blocks by the rule: geometric mean {mean:.2f}, least {min(taken):.2f}")
    return "\n".join(lines)


def _dtypes(device: torch.device) -> list[str]:
    """bfloat16 only where there are instructions for it."""
    if device.type == "cuda":
        return ["float32", "bfloat16"]
    mkldnn = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return ["float32", "bfloat16"] if mkldnn is not None and mkldnn() else ["float32"]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ch", type=int, help="BigGAN's channel multiplier; default 64 on a GPU, 32 on a CPU")
    parser.add_argument("--batch", type=int, help="default 64 on a GPU, 16 on a CPU")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result file")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--threads", type=int, default=1, help="1 (default): CPU time; more: wall time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="that one implementation gets in one round")
    parser.add_argument("--restart", action="store_true", help="begin the file anew")
    parser.add_argument("--report", type=Path, metavar="FILE", help="print the table of a result file")
    args = parser.parse_args(argv)
    if args.report:
        print(report([r for r in records.read(args.report) if r["kind"] == "row"]))
        return 0
    device = torch.device(args.device)
    gpu = device.type == "cuda"
    torch.set_num_threads(args.threads)
    options = [f"--{key} {value}" for key in ("ch", "batch") if (value := getattr(args, key)) is not None]
    command = " ".join(["python benchmarks/folded_convs.py --device", device.type, *options])
    about = records.header("folded-convs", device, command)
    label = "".join(c if c.isalnum() else "-" for c in records.device_name(device)).strip("-").lower() if gpu else "cpu"
    try:
        file = records.ResultFile(args.out / f"folded-convs-{label}.jsonl", about, restart=args.restart)
    except records.OtherRunError as error:
        print(error, file=sys.stderr)
        return 2
    there = {row["case"] for row in file.rows()}
    ch, batch = args.ch or (64 if gpu else 32), args.batch or (64 if gpu else 16)
    todo = [case for case in cases(ch, batch, _dtypes(device)) if args.only in case.name and case.name not in there]
    for i, case in enumerate(todo, 1):
        print(f"[{i}/{len(todo)}] {case.name}", file=sys.stderr, flush=True)
        file.append(measure_case(case, device, rounds=args.rounds, seconds=args.seconds))
    print(report(file.rows()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
