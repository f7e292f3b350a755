"""Spectral normalisation of whole models, weights only, beside PyTorch's own per-layer forms.

python -m benchmarks.spectral_norm                  # on a GPU if there is one, else on the CPU
python -m benchmarks.spectral_norm --device cpu --rounds 5 --out benchmarks/results/spectral-norm-cpu.jsonl

Each implementation normalises every weight of the model once, in training mode, and computes the gradients of all of
them; implementations take turns, round after round, and ratios are medians over rounds.
"""

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import records
from benchmarks.timing import Call, make_timer, measure
from ganfuse.kernels.spectral_normalize import cases, cost, spectral_normalize

MODELS = {"biggan-128 D": cases.biggan_discriminator, "biggan-128 G": cases.biggan_generator}
OURS = "ganfuse"


class _Layer(nn.Module):
    """A weight, and nothing else: what a forward costs is its normalisation."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self) -> Tensor:
        return self.weight


def providers(weights: list[Tensor], gpu: bool) -> dict[str, tuple[Callable[[], list[Tensor]], list[Tensor]]]:
    """By name: what normalises all weights, and the parameters it differentiates for."""
    us = [nn.functional.normalize(torch.randn_like(w[(slice(None),) + (0,) * (w.dim() - 1)]), dim=0) for w in weights]
    vs = [nn.functional.normalize(w.new_empty(w.numel() // len(w)).normal_(), dim=0) for w in weights]
    leaves = [w.detach().clone().requires_grad_() for w in weights]
    found: dict[str, tuple[Callable[[], list[Tensor]], list[Tensor]]] = {
        OURS: (lambda: spectral_normalize(leaves, us, vs)[0], list(leaves))
    }
    if gpu:
        found["ganfuse bf16"] = (lambda: spectral_normalize(leaves, us, vs, dtype=torch.bfloat16)[0], list(leaves))
    for name, normalise, parameter in (
        ("torch.nn.utils.spectral_norm", nn.utils.spectral_norm, lambda m: m.weight_orig),
        (
            "torch.nn.utils.parametrizations.spectral_norm",
            nn.utils.parametrizations.spectral_norm,
            lambda m: m.parametrizations.weight.original,
        ),
    ):
        layers = [normalise(_Layer(copy.deepcopy(w))) for w in weights]
        found[name] = (lambda layers=layers: [m() for m in layers], [parameter(m) for m in layers])  # type: ignore[misc]
    return found


def _call(normalise: Callable[[], list[Tensor]], leaves: list[Tensor], grads: list[Tensor]) -> Call:
    def run(_: object) -> None:
        outputs = normalise()
        torch.autograd.grad(
            outputs, leaves, [g.to(o.dtype) if g.dtype != o.dtype else g for g, o in zip(grads, outputs)]
        )

    return Call(run)


def _graphed(normalise: Callable[[], list[Tensor]], leaves: list[Tensor], grads: list[Tensor]) -> Call:
    """The same as a CUDA graph: what is left without the host."""
    call = _call(normalise, leaves, grads)
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


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--ch", type=int, default=96, help="the models' channel multiplier (BigGAN's tables: 96)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="per visit to an implementation")
    parser.add_argument("--out", type=Path, help="write the results here as JSON lines")
    args = parser.parse_args(argv)
    if args.rounds < 2 or args.ch < 8 or args.ch % 8:
        parser.error("--rounds must be at least 2, --ch a multiple of 8")
    device = torch.device(args.device)
    gpu = device.type == "cuda"
    command = "python -m benchmarks.spectral_norm " + " ".join(argv if argv is not None else sys.argv[1:])
    rows = [records.header("spectral-norm", device, command.strip())]
    for model, shapes in MODELS.items():
        torch.manual_seed(0)
        weights = [torch.randn(shape, device=device) * 0.02 for shape in shapes(args.ch)]
        grads = [torch.randn_like(w) for w in weights]
        calls = {}
        for name, (normalise, leaves) in providers(weights, gpu).items():
            calls[name] = _call(normalise, leaves, grads)
            if gpu:
                calls[f"{name}, CUDA graph"] = _graphed(normalise, leaves, grads)
        timings = measure(calls, make_timer(device), rounds=args.rounds, seconds=args.seconds)
        parameters = sum(w.numel() for w in weights)
        vectors = sum(len(w) + w.numel() // len(w) for w in weights)
        floor = cost.forward(parameters, vectors, 4, 4) + cost.backward(parameters, vectors, 4, 4)
        for name, timing in timings.items():
            row = {
                "model": model, "ch": args.ch, "layers": len(weights), "parameters": parameters, "implementation": name,
                "ms": round(timing.median * 1e3, 3), "spread": round(timing.spread, 3),
                "times_faster": {OURS: round(timing.over(timings[OURS]), 2)},
                "gigabytes_per_second": round(floor.bytes / timing.median * 1e-9, 1),
            }  # fmt: skip
            rows.append(row)
            print(
                f"{model:13} {name:46} {row['ms']:9.2f} ms   ganfuse is {row['times_faster'][OURS]:.2f} times as fast"
            )
    if args.out:
        results = records.ResultFile(args.out, rows[0], restart=True)
        for row in rows[1:]:
            results.append(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
