"""A whole training step of a model that translates, beside the plain-PyTorch way of writing it: time and peak memory.

    python benchmarks/translation_step.py                          # CycleGAN, 128 px, batch 1, on one CPU core
    python benchmarks/translation_step.py --model ugatit-light
    python benchmarks/translation_step.py --threads 2
    python benchmarks/translation_step.py --device cuda --side 256
    python benchmarks/translation_step.py --report benchmarks/results/translation-step.jsonl

Both do the same step from the same weights: losses, gradients, Adam, image pools. That comes first: in float64 and at a
small size, losses and gradients of the two must agree, or nothing is timed. Then both run in turn, round after round;
"ratio" is the median over rounds of plain / ganfuse. Peak memory is of a process of its own for each: the peak of a
second step above what the process held before the model was built (resident memory; on a GPU, what PyTorch allocates).

Ours runs through the trainer's `TurnRunner`, in NCHW and in channels_last. Plain PyTorch runs in NCHW alone: the
gradient of its instance norm is wrong for one channels_last sample.

`MODELS` is the table of what can be measured. Results are JSON lines; the same command goes on where it stopped.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.plain_cyclegan import PlainCycleGAN
from benchmarks.plain_ugatit import PlainUGATIT
from ganfuse.bench import records
from ganfuse.bench.timing import Call, make_timer, measure
from ganfuse.engine.game import Batch
from ganfuse.engine.loss_record import LossRecord
from ganfuse.engine.noise import Noise
from ganfuse.engine.precision import Precision
from ganfuse.engine.translation import TranslationGame
from ganfuse.engine.turn_runner import TurnRunner
from ganfuse.models import create
from ganfuse.models.ugatit import UGATITGame

DEFAULT_OUT = Path(__file__).resolve().parent / "results" / "translation-step.jsonl"
IMPLEMENTATIONS = ("plain", "ganfuse", "ganfuse channels_last")
# Losses and gradients in float64, relative to the largest gradient: rounding and nothing else.
TOLERANCE = 1e-9


class PlainStep(Protocol):
    """The plain way of writing a model, made from the game's weights."""

    def step(self, batch: Batch) -> None:
        """All moves of a step."""

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by player's name, and gradients, "PLAYER INDEX", in the order of the player's parameters."""


class Model(NamedTuple):
    """A row of the table: how to make the game, and its plain counterpart, from the command's settings."""

    game: Callable[["Settings"], TranslationGame]
    plain: Callable[[TranslationGame, "Settings"], PlainStep]
    side: int
    small: "Settings"


class Settings(NamedTuple):
    """The size of what is measured."""

    side: int
    width: int
    channels: int = 3
    batch: int = 1


def _cyclegan_blocks(settings: Settings) -> int:
    return 9 if settings.side >= 256 else 6


def _cyclegan(settings: Settings) -> TranslationGame:
    game = create("cyclegan", resolution=settings.side, width=settings.width, channels=settings.channels)
    assert isinstance(game, TranslationGame)
    return game


def _plain_cyclegan(game: TranslationGame, settings: Settings) -> PlainStep:
    return PlainCycleGAN(game, width=settings.width, blocks=_cyclegan_blocks(settings))


def _ugatit_light(settings: Settings) -> TranslationGame:
    game = create("ugatit", light=True, resolution=settings.side, width=settings.width, channels=settings.channels)
    assert isinstance(game, TranslationGame)
    return game


def _plain_ugatit(game: TranslationGame, settings: Settings) -> PlainStep:
    assert isinstance(game, UGATITGame)
    return PlainUGATIT(game)


#: What can be measured, by name. The plain counterpart of a model is a file of its own, such as plain_cyclegan.py.
MODELS = {
    "cyclegan": Model(_cyclegan, _plain_cyclegan, side=128, small=Settings(side=32, width=4)),
    "ugatit-light": Model(_ugatit_light, _plain_ugatit, side=128, small=Settings(side=32, width=2)),
}


class GanfuseStep:
    """The same through the trainer's machinery."""

    def __init__(self, game: TranslationGame, device: torch.device, *, channels_last: bool = False) -> None:
        self.game = game.train()
        if channels_last:
            game.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.record = LossRecord(device)
        self.runner = TurnRunner(game, Precision("fp32", device), self.record)
        self.count = 0

    def step(self, batch: Batch) -> None:
        self.count += 1
        for turn in self.runner.turns:
            if turn.is_played(self.count):
                noise = Noise(torch.Generator(batch.images.device).manual_seed(self.count))
                self.runner.play(turn, [(batch, lambda noise=noise: noise)], self.count)
        self.record.flush()


def make_batch(settings: Settings, device: torch.device, dtype: torch.dtype = torch.float32) -> Batch:
    generator = torch.Generator().manual_seed(0)
    shape = (settings.batch, settings.channels, settings.side, settings.side)
    a, b = (torch.rand(shape, generator=generator, dtype=torch.float64).mul(2).sub(1) for _ in "ab")
    return Batch(a.to(device, dtype), images_b=b.to(device, dtype))


def make_step(model: Model, settings: Settings, implementation: str, device: torch.device) -> Callable[[Batch], None]:
    torch.manual_seed(0)
    game = model.game(settings).to(device)
    if implementation == "plain":
        return model.plain(game, settings).step
    return GanfuseStep(game, device, channels_last=implementation.endswith("channels_last")).step


def largest_difference(model: Model, settings: Settings) -> float:
    """Between the two ways, of losses and gradients in float64, as a share of the largest of its player."""
    torch.manual_seed(0)
    game = model.game(settings).double().train()
    batch = make_batch(settings, torch.device("cpu"), torch.float64)
    expected = model.plain(game, settings).gradients(batch)
    found: dict[str, Tensor] = {}
    for turn in game.turns():
        values = turn.loss(batch, Noise(torch.Generator().manual_seed(0)))
        for player in game.players():
            if player.name in turn.players:
                loss = values["loss"] if "loss" in values else values[f"loss/{player.name}"]
                gradients = torch.autograd.grad(loss, player.parameters(game), retain_graph=True)
                found[player.name] = loss.detach()
                found |= {f"{player.name} {index}": gradient for index, gradient in enumerate(gradients)}
    if found.keys() != expected.keys():
        return float("inf")
    largest: dict[str, float] = {}
    for key, value in expected.items():
        player = key.partition(" ")[0] + (" gradients" if " " in key else "")
        largest[player] = max(largest.get(player, 1e-300), float(value.abs().max()))
    return max(
        float((found[key] - value).abs().max()) / largest[key.partition(" ")[0] + (" gradients" if " " in key else "")]
        for key, value in expected.items()
    )


def peak_memory(model: Model, settings: Settings, implementation: str, device: torch.device) -> int:
    """Bytes. On a CPU of this process, which must have done nothing else."""
    batch = make_batch(settings, device)
    before = 0 if device.type == "cuda" else resident("VmRSS")
    step = make_step(model, settings, implementation, device)
    step(batch)  # makes the optimisers' state
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step(batch)
        return torch.cuda.max_memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    step(batch)
    return resident("VmHWM") - before


def resident(entry: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{entry}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {entry}")


def _peak_elsewhere(args: argparse.Namespace, implementation: str) -> int:
    """`peak_memory` in a process of its own."""
    command = [sys.executable, __file__, "--peak-of", implementation, "--model", args.model, "--device", args.device]
    command += ["--threads", str(args.threads), "--side", str(args.side), "--width", str(args.width)]
    command += ["--batch", str(args.batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {implementation} failed:\n{done.stderr}")
    return int(json.loads(done.stdout.splitlines()[-1])["peak_bytes"])


def measure_model(args: argparse.Namespace, settings: Settings, device: torch.device) -> dict[str, Any]:
    """One row of the result file."""
    model = MODELS[args.model]
    row: dict[str, Any] = {"kind": "row", "case": case_name(args), "model": args.model, **settings._asdict()}
    row["difference"] = largest_difference(model, model.small)
    if not row["difference"] <= TOLERANCE:
        return row | {"wrong": True}
    row["peak_mib"] = {name: _peak_elsewhere(args, name) / 2**20 for name in IMPLEMENTATIONS}
    batch = make_batch(settings, device)
    steps = {name: make_step(model, settings, name, device) for name in IMPLEMENTATIONS}
    calls = {name: Call(lambda _, step=step: step(batch)) for name, step in steps.items()}
    timings = measure(calls, make_timer(device), rounds=args.rounds, seconds=0.0)
    row["ms"] = {name: 1e3 * timing.median for name, timing in timings.items()}
    row["ratio"] = {name: timings["plain"].over(timings[name]) for name in IMPLEMENTATIONS[1:]}
    row["spread"] = {name: timing.spread for name, timing in timings.items()}
    return row | {"rounds": args.rounds, "threads": args.threads}


def case_name(args: argparse.Namespace) -> str:
    return f"{args.model} {args.side} px, width {args.width}, batch {args.batch}, {args.threads} threads"


def report(rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = ["| step | implementation | ms | plain / it | peak MiB |", "|---|---|---|---|---|"]
    for row in rows:
        if row.get("wrong"):
            lines.append(f"| {row['case']} | differs by {row['difference']:.1e}: not timed | | | |")
            continue
        for name in row["ms"]:
            ratio = row["ratio"].get(name, 1.0)
            lines.append(
                f"| {row['case']} | {name} | {row['ms'][name]:.0f} | {ratio:.2f} | {row['peak_mib'][name]:.0f} |"
            )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="cyclegan")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--side", type=int, help="of the images in pixels (default: the model's in the table)")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="1 (default): CPU time; more: wall time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="result file (JSON lines)")
    parser.add_argument("--restart", action="store_true", help="begin the file anew")
    parser.add_argument("--report", type=Path, metavar="FILE", help="print the table of a result file")
    parser.add_argument("--peak-of", choices=IMPLEMENTATIONS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.report:
        print(report([row for row in records.read(args.report) if row["kind"] == "row"]))
        return 0
    args.side = args.side or MODELS[args.model].side
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    settings = Settings(args.side, args.width, batch=args.batch)
    if args.peak_of:
        print(json.dumps({"peak_bytes": peak_memory(MODELS[args.model], settings, args.peak_of, device)}))
        return 0
    about = records.header("translation-step", device, "python benchmarks/translation_step.py", folder="")
    try:
        file = records.ResultFile(args.out, about, restart=args.restart)
    except records.OtherRunError as error:
        print(error, file=sys.stderr)
        return 2
    if case_name(args) not in {row["case"] for row in file.rows()}:
        file.append(measure_model(args, settings, device))
    print(report(file.rows()))
    return 1 if any(row.get("wrong") for row in file.rows()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
