"""Whole training steps of published models, with one speed feature more or less; needs PyTorch and Triton alone.

    python benchmarks/training_steps.py --out benchmarks/results/new
    python benchmarks/training_steps.py --device cpu --models sagan-128 --variants reference channels_last

As `ganfuse bench --train`, but at the sizes of the papers, on random images, and model after model until the time is
up. The same command goes on where it stopped. `ganfuse bench --read FILE --html PAGE` shows a file with plots.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ganfuse.bench import records, training_table
from ganfuse.bench.training import Subject, measure_training
from ganfuse.bench.training_variants import default_variants, parse_variants
from ganfuse.engine.game import Game
from ganfuse.models import create


class RandomImages:
    """uint8 images and classes that are a function of their number."""

    def __init__(self, side: int, classes: int, shift: int = 0) -> None:
        self.side, self.classes, self.shift = side, classes, shift

    def __len__(self) -> int:
        return 512

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        generator = torch.Generator().manual_seed(index + self.shift)
        return torch.randint(
            256, (3, self.side, self.side), dtype=torch.uint8, generator=generator
        ), index % self.classes


class TwoDomains(RandomImages):
    """Unpaired images of two domains."""

    def __init__(self, side: int) -> None:
        super().__init__(side, 1)
        self.domains = (RandomImages(side, 1), RandomImages(side, 1, shift=10_000))


@dataclass(frozen=True)
class Model:
    """A row of the table.

    Attributes:
        name, config: for `create`. batch: on a GPU; a CPU gets two images, which batch statistics need.
    """

    name: str
    batch: int
    config: dict[str, Any]
    unpaired: bool = False


# The most instructive first: what the time suffices for is complete.
MODELS = {
    "biggan-128": Model("biggan", 64, {"resolution": 128, "num_classes": 1000}),
    "stylegan2-256": Model("stylegan2", 16, {"resolution": 256}),
    "sagan-128": Model("sagan", 64, {"resolution": 128, "num_classes": 1000}),
    "ugatit-light-256": Model("ugatit", 1, {"resolution": 256, "light": True}, unpaired=True),
}


def make_subject(label: str, device: torch.device) -> Subject:
    model = MODELS[label]
    side = model.config["resolution"]
    data = TwoDomains(side) if model.unpaired else RandomImages(side, model.config.get("num_classes", 1))
    batch = model.batch if device.type == "cuda" else min(model.batch, 2)

    def game() -> Game:
        torch.manual_seed(0)
        return create(model.name, **model.config)

    sizes = {"data": "random", "batch": batch, **model.config}
    options = {"batch_size": batch, "device": str(device), "progress": False}
    return Subject(f"train/{label}/batch {batch}", model.name, sizes, game, data, options)


def run(
    labels: list[str], variants: list[str], results: records.ResultFile, device: torch.device, seconds: float,
    say: Callable[[str], None],
) -> list[str]:  # fmt: skip
    """Measure models until the time is up; those that are left."""
    deadline = time.monotonic() + seconds
    for number, label in enumerate(labels):
        left = deadline - time.monotonic()
        if left <= 0:
            return labels[number:]
        chosen = parse_variants(variants or default_variants(device))
        measure_training(make_subject(label, device), chosen, results, device, seconds=left, say=say)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return []


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/new"), help="folder, or a .jsonl file")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), metavar="MODEL")
    parser.add_argument("--variants", nargs="+", default=[], help="as for ganfuse bench --train")
    parser.add_argument("--minutes", type=float, default=2.0, help="begin no new round or model after that")
    parser.add_argument("--restart", action="store_true", help="throw away the results that are there")
    args = parser.parse_args(argv)
    device = torch.device("cuda", torch.cuda.current_device()) if args.device == "cuda" else torch.device("cpu")
    about = records.header("train", device, "python benchmarks/training_steps.py", folder=".")
    try:
        path = records.result_path(args.out, "train", device)
        results = records.ResultFile(path, about, restart=args.restart)
    except records.OtherRunError as error:
        print(error, file=sys.stderr)
        return 2
    left = run(args.models, args.variants, results, device, 60 * args.minutes, lambda line: print(line, flush=True))
    for row in results.rows():
        print("  ".join([row["case"], *training_table.cells(row)]))
    if left:
        print(f"the time is up: {', '.join(left)} left; the same command goes on")
    print(f"rows in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
