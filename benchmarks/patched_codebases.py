"""A public codebase's own networks before and after `ganfuse.interop.patch`: equality, step time and peak memory.

    python benchmarks/patched_codebases.py biggan-pytorch /path/to/BigGAN-PyTorch
    python benchmarks/patched_codebases.py stylegan2-ada /path/to/stylegan2-ada-pytorch --device cuda
    python benchmarks/patched_codebases.py --report benchmarks/results/patched-codebases-cpu.jsonl

The networks are small ones that the codebase's code builds (codebase_models.py). First they must agree: result,
gradients and second derivatives of the network as it was and patched, in float64 where the code can compute in it, or
nothing is timed. Then both run in turn, round after round; "ratio" is the median over rounds of before / after, so
above 1 the patch is faster. Two passes: "step", forward and gradients of all parameters, and "penalty", the squared
gradient for the input (as in R1 or a path length penalty) and its gradients. Peak memory is of one pass, beyond what
was held.

On a CPU with one thread (the default) the clock is CPU time. Results are JSON lines, appended to --out; a network that
the file has is not measured again.
"""

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.codebase_models import CODEBASES, Network
from ganfuse.bench import records
from ganfuse.bench.device_probes import peak_bytes
from ganfuse.bench.timing import Call, make_timer, measure
from ganfuse.interop import patch, unpatch

DEFAULT_OUT = Path(__file__).resolve().parent / "results"
# Relative Frobenius error over all of a kind.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
PASSES = ("step", "penalty")


class Switch:
    """Goes between the functions that a codebase's modules had and the ones that the patch put there."""

    def __init__(self) -> None:
        self._before = self._functions()
        self._changed: list[tuple[ModuleType, str, Any, Any]] = []

    def note(self) -> None:
        """What was replaced since."""
        for (name, key), (module, value) in self._before.items():
            now = vars(sys.modules[name]).get(key)
            if now is not value:
                self._changed.append((module, key, value, now))

    def to(self, patched: bool) -> None:
        for module, key, before, after in self._changed:
            setattr(module, key, after if patched else before)

    @staticmethod
    def _functions() -> dict[tuple[str, str], tuple[ModuleType, Any]]:
        skipped = ("torch", "ganfuse", "numpy", "benchmarks")
        return {
            (name, key): (module, value)
            for name, module in list(sys.modules.items())
            if isinstance(module, ModuleType) and name.split(".")[0] not in skipped
            for key, value in list(vars(module).items())
            if callable(value) and not isinstance(value, type)
        }


def settle(network: Network) -> nn.Module:
    """The network with what starts at 0 or 1 moved from there, and its power methods under way."""
    module = network.module.train().requires_grad_(True)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() <= 1 or parameter.shape[0] == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for _ in range(3):
            module(*network.inputs)
    return module


def run(module: nn.Module, network: Network, what: str) -> list[Tensor]:
    """Result, gradient for the input, and gradients of the parameters, of a pass."""
    first, *rest = network.inputs
    first = first.detach().requires_grad_(what == "penalty")
    y = network.result(module(first, *rest))
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if what == "step":
        return [y, *_gradients(y.square().mean() + y.mean(), parameters)]
    (slope,) = torch.autograd.grad(y.sum(), first, create_graph=True)
    return [y, slope, *_gradients(slope.square().sum(), parameters)]


def _gradients(loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if gradient is None else gradient for p, gradient in zip(parameters, found)]


def errors(expected: list[Tensor], got: list[Tensor], what: str) -> dict[str, float]:
    """Relative Frobenius errors by kind."""
    kinds = {"result": slice(0, 1), "gradient": slice(1, None)}
    if what == "penalty":
        kinds = {"gradient for the input": slice(1, 2), "second derivative": slice(2, None)}
    return {kind: _relative(expected[some], got[some]) for kind, some in kinds.items()}


def _relative(expected: list[Tensor], got: list[Tensor]) -> float:
    off = sum(float((a.detach().double() - b.detach().double()).square().sum()) for a, b in zip(expected, got))
    whole = sum(float(a.detach().double().square().sum()) for a in expected)
    return float((off / max(whole, 1e-300)) ** 0.5)


def measure_network(args: argparse.Namespace, network: Network, double: bool, device: torch.device) -> dict[str, Any]:
    """One row of the result file."""
    dtype = torch.float64 if double and device.type == "cpu" else torch.float32
    network = network._replace(
        module=network.module.to(device), inputs=[value.to(device) for value in network.inputs]
    )  # fmt: skip
    before = settle(network)
    after = copy.deepcopy(before)
    switch = Switch()
    report = patch(after, everywhere=args.everywhere, verbose=False)
    switch.note()
    print(f"{args.codebase} {network.name}: {report}")
    row: dict[str, Any] = {
        "kind": "row", "case": f"{args.codebase} {network.name}", "codebase": args.codebase, "network": network.name,
        "input": list(network.inputs[0].shape), "parameters": sum(p.numel() for p in before.parameters()),
        "everywhere": args.everywhere, "replaced": len(report.replaced), "left": len(report.left),
    }  # fmt: skip
    row["errors"] = {}
    for what in PASSES:
        wide = network._replace(inputs=[_cast(value, dtype) for value in network.inputs])
        found = []
        for module, patched in ((before, False), (after, True)):
            switch.to(patched)
            found.append(run(copy.deepcopy(module).to(dtype), wide, what))
        row["errors"] |= errors(found[0], found[1], what)
    row["errors_in"] = str(dtype).removeprefix("torch.")
    if not all(error <= TOLERANCE[dtype] for error in row["errors"].values()):
        switch.to(True)
        unpatch(after)
        return row | {"wrong": True}
    for what in PASSES:
        calls = {
            "before": _call(before, network, what, switch, False),
            "after": _call(after, network, what, switch, True),
        }
        peaks = {name: peak_bytes(call, device) for name, call in calls.items()}
        timings = measure(calls, make_timer(device), rounds=args.rounds, seconds=0.0)
        row[what] = {
            "ms": {name: 1e3 * timing.median for name, timing in timings.items()},
            "ratio": timings["before"].over(timings["after"]),
            "ratio_spread": timings["before"].over_spread(timings["after"]),
            "peak_mib": {name: None if peak is None else peak / 2**20 for name, peak in peaks.items()},
        }
    switch.to(True)
    unpatch(after)
    return row | {"rounds": args.rounds, "threads": args.threads}


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value


def _call(module: nn.Module, network: Network, what: str, switch: Switch, patched: bool) -> Call:
    def prepare() -> Callable[[], list[Tensor]]:
        switch.to(patched)
        return lambda: run(module, network, what)

    return Call(lambda go: go(), prepare)


def report_table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [
        "| codebase | network | pass | ms before | ms after | before / after | MiB before | after | largest error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        error = f"{max(row['errors'].values()):.0e} ({row['errors_in']})"
        if row.get("wrong"):
            lines.append(f"| {row['codebase']} | {row['network']} | differs, not timed | | | | | | {error} |")
            continue
        for what in PASSES:
            part = row[what]
            cells = [f"{part['ms'][side]:.0f}" for side in ("before", "after")]
            peaks = [f"{part['peak_mib'][side]:.0f}" for side in ("before", "after")]
            middle = f"{cells[0]} | {cells[1]} | {part['ratio']:.2f} | {peaks[0]} | {peaks[1]}"
            lines.append(f"| {row['codebase']} | {row['network']} | {what} | {middle} | {error} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codebase", nargs="?", choices=sorted(CODEBASES))
    parser.add_argument("path", nargs="?", type=Path, help="a checkout of the codebase")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="1 (default): CPU time; more: wall time")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--everywhere", action="store_true", help="patch also where it is known to be slower")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder, or result file (JSON lines)")
    parser.add_argument("--restart", action="store_true", help="begin the file anew")
    parser.add_argument("--report", type=Path, metavar="FILE", help="print the table of a result file")
    args = parser.parse_args(argv)
    if args.report:
        print(report_table([row for row in records.read(args.report) if row["kind"] == "row"]))
        return 0
    if args.codebase is None or args.path is None:
        parser.error(f"name a codebase ({', '.join(sorted(CODEBASES))}) and the path of its checkout")
    if args.rounds < 2:
        parser.error(f"--rounds must be at least 2, to know the spread, got {args.rounds}")
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    command = "python benchmarks/patched_codebases.py"
    about = records.header("patched-codebases", device, command, folder="interop/patches")
    try:
        file = records.ResultFile(
            records.result_path(args.out, "patched-codebases", device), about, restart=args.restart
        )
    except records.OtherRunError as error:
        print(error, file=sys.stderr)
        return 2
    torch.manual_seed(0)
    known = CODEBASES[args.codebase]
    for network in known.build(args.path.resolve()):
        if f"{args.codebase} {network.name}" not in {row["case"] for row in file.rows()}:
            file.append(measure_network(args, network, known.double, device))
    rows = [row for row in file.rows() if row["codebase"] == args.codebase]
    print(report_table(rows))
    return 1 if any(row.get("wrong") for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
