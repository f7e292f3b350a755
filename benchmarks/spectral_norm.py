"""Spectral normalisation of whole models, weights only, beside PyTorch's own per-layer forms.

    python benchmarks/spectral_norm.py --out benchmarks/results/new
    python benchmarks/spectral_norm.py --device cpu --rounds 5

Each implementation normalises every weight of BigGAN-128's discriminator or generator once, in training mode, and
computes the gradients of all of them. What is wrong against float64 gets no time. Implementations take turns, round
after round, and ratios are medians over rounds. On a GPU two times are measured: `ms`, the GPU's own, its queue held
until all is enqueued; and `wall_ms`, what a training step waits, launches by the host included.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ganfuse.bench import records
from ganfuse.bench.ceilings import measure_ceilings
from ganfuse.bench.device_probes import count_launches, gpu_state
from ganfuse.bench.timing import Call, CpuTimer, Timing, make_timer, measure
from ganfuse.kernels.spectral_normalize import cases, cost, spectral_normalize

MODELS = {"biggan-128 D": cases.biggan_discriminator, "biggan-128 G": cases.biggan_generator}
OURS = "ganfuse"
HOOK = "torch.nn.utils.spectral_norm"
PARAMETRIZATION = "torch.nn.utils.parametrizations.spectral_norm"
COMPILED = "torch.compile of the definition"
GRAPHED = ", CUDA graph"
# How many times as fast as PyTorch's per-layer forms, by the time that a training step waits.
GOALS = {"cpu": 1.5, "cuda": 5.0}


class Provider(NamedTuple):
    """What normalises all weights, the parameters it differentiates for, and the type of what it writes."""

    normalise: Callable[[], list[Tensor]]
    parameters: list[Tensor]
    dtype: torch.dtype


class _Layer(nn.Module):
    """A weight, and nothing else: what a forward costs is its normalisation."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self) -> Tensor:
        return self.weight


def providers(weights: list[Tensor], gpu: bool) -> dict[str, Provider]:
    """By name; all have the same weights and the same u and v."""
    us = [nn.functional.normalize(torch.randn_like(w[(slice(None),) + (0,) * (w.dim() - 1)]), dim=0) for w in weights]
    vs = [nn.functional.normalize(w.new_empty(w.numel() // len(w)).normal_(), dim=0) for w in weights]
    names = [OURS, f"{OURS} bf16", COMPILED] if gpu else [OURS]
    return {name: _batched(name, weights, us, vs) for name in names} | {
        HOOK: _hooked(weights, us, vs),
        PARAMETRIZATION: _parametrized(weights, us, vs),
    }


def _batched(name: str, weights: list[Tensor], us: list[Tensor], vs: list[Tensor]) -> Provider:
    leaves = [w.clone().requires_grad_() for w in weights]
    own_us, own_vs = [u.clone() for u in us], [v.clone() for v in vs]
    dtype = torch.bfloat16 if name.endswith("bf16") else weights[0].dtype
    backend = "reference" if name == COMPILED else "auto"

    def normalise() -> list[Tensor]:
        return spectral_normalize(leaves, own_us, own_vs, dtype=dtype, backend=backend)[0]

    return Provider(torch.compile(normalise) if name == COMPILED else normalise, leaves, dtype)


def _hooked(weights: list[Tensor], us: list[Tensor], vs: list[Tensor]) -> Provider:
    layers = [nn.utils.spectral_norm(_Layer(w.clone())) for w in weights]
    for layer, u, v in zip(layers, us, vs):
        layer.weight_u.copy_(u)
        layer.weight_v.copy_(v)
    return Provider(lambda: [layer() for layer in layers], [layer.weight_orig for layer in layers], weights[0].dtype)


def _parametrized(weights: list[Tensor], us: list[Tensor], vs: list[Tensor]) -> Provider:
    layers = [nn.utils.parametrizations.spectral_norm(_Layer(w.clone())) for w in weights]
    for layer, u, v in zip(layers, us, vs):
        layer.parametrizations.weight[0]._u.copy_(u)
        layer.parametrizations.weight[0]._v.copy_(v)
    leaves = [layer.parametrizations.weight.original for layer in layers]
    return Provider(lambda: [layer() for layer in layers], leaves, weights[0].dtype)


def _call(provider: Provider, grads: list[Tensor]) -> Call:
    given = [g.to(provider.dtype) for g in grads] if provider.dtype != grads[0].dtype else grads

    def run(_: Any) -> None:
        torch.autograd.grad(provider.normalise(), provider.parameters, given)

    return Call(run)


def _graphed(call: Call) -> Call:
    """The same as a CUDA graph: what is left without the host."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call.run(None)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call.run(None)
    return Call(lambda _: graph.replay())


def errors(shapes: list[tuple[int, ...]], device: torch.device) -> dict[str, float]:
    """Of each implementation, the worst relative error of a normalised weight or a gradient against float64.

    The power method starts near the answer, so that PyTorch's order of u and v ends where the other does.
    """
    generator = torch.Generator().manual_seed(0)
    weights = []
    for shape in shapes:
        columns = torch.Size(shape[1:]).numel()
        u, v = torch.randn(shape[0], generator=generator), torch.randn(columns, generator=generator)
        noise = torch.randn(shape[0], columns, generator=generator)
        weights.append((torch.outer(u, v) / 30 + 1e-3 * noise).view(shape).to(device))
    grads = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
    exact = [w.double().requires_grad_() for w in weights]
    us, vs = ([w.new_ones(size) for w, size in zip(exact, sizes)] for sizes in _sizes(shapes))
    truth, _ = spectral_normalize(exact, us, vs, n_power_iterations=30, backend="reference")
    expected = [*truth, *torch.autograd.grad(truth, exact, [g.double() for g in grads])]
    found = {}
    for name, provider in providers(weights, device.type == "cuda").items():
        with torch.no_grad():
            for _ in range(6):
                provider.normalise()
        outputs = provider.normalise()
        gradients = torch.autograd.grad(outputs, provider.parameters, [g.to(provider.dtype) for g in grads])
        found[name] = max(
            float((a.detach().double() - e.detach()).norm() / e.detach().norm())
            for a, e in zip([*outputs, *gradients], expected, strict=True)
        )
    return found


def _sizes(shapes: list[tuple[int, ...]]) -> tuple[list[int], list[int]]:
    return [s[0] for s in shapes], [torch.Size(s[1:]).numel() for s in shapes]


def measure_model(
    model: str, ch: int, device: torch.device, copy: float, *, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """The rows of a model; `copy` is the device's measured bandwidth in bytes/s."""
    gpu = device.type == "cuda"
    torch.manual_seed(0)
    shapes = MODELS[model](ch)
    wrong = {k: e for k, e in errors(MODELS[model](8), device).items() if not e < (1e-2 if "bf16" in k else 1e-3)}
    weights = [torch.randn(shape, device=device) * 0.02 for shape in shapes]
    grads = [torch.randn_like(w) for w in weights]
    made = providers(weights, gpu)
    types = {name: provider.dtype.itemsize for name, provider in made.items()}
    calls, failed = {}, {name: f"wrong: relative error {error:.2g}" for name, error in wrong.items()}
    for name, provider in made.items():
        if name in failed:
            continue
        for label in (name, name + GRAPHED) if gpu else (name,):
            try:
                call = _call(provider, grads)
                call.run(None)
                calls[label] = _graphed(call) if label.endswith(GRAPHED) else call
            except Exception as error:  # a capture or a compiler that gives up costs its own row
                failed[label] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    timings = measure(calls, make_timer(device), rounds=rounds, seconds=seconds)
    walls = _wall(calls, rounds, seconds) if gpu else timings
    launches = count_launches(calls, device)
    parameters, vectors = sum(w.numel() for w in weights), sum(map(sum, _sizes(shapes)))
    about = {"kind": "row", "model": model, "ch": ch, "layers": len(weights), "parameters": parameters}
    rows = [{**about, "implementation": name, "status": "error", "reason": reason} for name, reason in failed.items()]
    for name, timing in timings.items():
        itemsize = types[name.removesuffix(GRAPHED)]
        least = cost.forward(parameters, vectors, 4, itemsize) + cost.backward(parameters, vectors, 4, itemsize)
        row = {
            **about, "implementation": name, "status": "ok",
            "ms": timing.median * 1e3, "spread": timing.spread,
            "wall_ms": walls[name].median * 1e3, "wall_spread": walls[name].spread,
            "ratio_to_ganfuse": timing.over(timings[OURS]) if OURS in timings else None,
            "wall_ratio_to_ganfuse": walls[name].over(walls[OURS]) if OURS in timings else None,
            "floor_bytes": least.bytes, "copy_share": least.bytes / timing.median / copy,
        }  # fmt: skip
        rows.append(row | ({"launches": launches[name]} if name in launches else {}))
    return rows


def _wall(calls: Mapping[str, Call], rounds: int, seconds: float) -> dict[str, Timing]:
    """What the host waits for a run and its end."""

    def synchronised(call: Call) -> Call:
        def run(state: Any) -> None:
            call.run(state)
            torch.cuda.synchronize()

        return Call(run)

    timer = CpuTimer(time.perf_counter)
    return measure({name: synchronised(call) for name, call in calls.items()}, timer, rounds=rounds, seconds=seconds)


def report(all_records: list[dict[str, Any]]) -> str:
    """A table, and the goals."""
    kind = "cuda" if "cuda" in all_records[0] else "cpu"
    lines = [
        f"{'':13} {'':60} {'ms':>9} {'wall ms':>9} {'× ganfuse':>9} {'wall ×':>9} {'of copy':>8} {'launches':>8}",
    ]
    for row in all_records:
        if row["kind"] != "row":
            continue
        head = f"{row['model']:13} {row['implementation']:60}"
        if row["status"] != "ok":
            lines.append(f"{head} {row['reason']}")
            continue
        ratios = [f"{row[k]:9.2f}" if row[k] is not None else f"{'':9}" for k in _RATIOS]
        lines.append(
            f"{head} {row['ms']:9.3f} {row['wall_ms']:9.3f} {' '.join(ratios)} {row['copy_share']:8.0%} "
            f"{row.get('launches', ''):>8}"
        )
    for row in all_records:
        if row["kind"] == "row" and row["implementation"] in (HOOK, PARAMETRIZATION) and row["status"] == "ok":
            ratio = row["wall_ratio_to_ganfuse"]
            verdict = "NOT MEASURED" if ratio is None else "PASS" if ratio >= GOALS[kind] else "MISS"
            lines.append(
                f"{verdict}: {row['model']} at least {GOALS[kind]} times as fast as {row['implementation']}"
                + (f", {ratio:.2f}" if ratio is not None else "")
            )
    return "\n".join(lines)


_RATIOS = ("ratio_to_ganfuse", "wall_ratio_to_ganfuse")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/new"), help="folder, or a .jsonl file")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--ch", type=int, default=96, help="the models' channel multiplier (BigGAN's tables: 96)")
    parser.add_argument("--threads", type=int, metavar="N", help="of PyTorch on a CPU; 1 on a machine that is busy")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="per visit to an implementation")
    parser.add_argument("--report", type=Path, metavar="FILE", help="print the table of a result file")
    args = parser.parse_args(argv)
    if args.report:
        print(report(records.read(args.report)))
        return 0
    if args.rounds < 2 or args.ch < 8 or args.ch % 8:
        parser.error("--rounds must be at least 2, --ch a multiple of 8")
    gpu = args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available())
    if gpu and not torch.cuda.is_available():
        print("no GPU that PyTorch can use: --device cpu measures the CPU", file=sys.stderr)
        return 2
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
    command = f"python benchmarks/spectral_norm.py --device {device.type} --ch {args.ch} --rounds {args.rounds}"
    about = records.header("spectral-norm", device, command)
    results = records.ResultFile(records.result_path(args.out, "spectral-norm", device), about, restart=True)
    ceilings = measure_ceilings(device, make_timer(device), ("fp32",))
    results.append({**ceilings.record(), **gpu_state(device)})
    for model in MODELS:
        print(model, file=sys.stderr, flush=True)
        for row in measure_model(model, args.ch, device, ceilings.copy, rounds=args.rounds, seconds=args.seconds):
            results.append(row)
        gc.collect()
        if gpu:
            torch.cuda.empty_cache()
    print(f"{report(results.records)}\n\nrows in {results.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
