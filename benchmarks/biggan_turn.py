"""A turn of BigGAN (both players move once) beside the plain PyTorch way of writing it.

    python -m benchmarks.biggan_turn                     # on a GPU if there is one, else on the CPU
    python -m benchmarks.biggan_turn --device cpu --rounds 9
    python -m benchmarks.biggan_turn --report benchmarks/results/biggan-turn-cpu.jsonl

Losses, gradients, optimisers' steps and the moving average; 64 px, width 32, 10 classes, batches of 16 unless asked
otherwise. `benchmarks/plain_biggan.py` has the plain form. Both are timed in float32 and in bfloat16 autocast with
channels_last; all four take turns, round after round, and ratios are medians over rounds. First both must agree: losses
and gradients in float64 from the same weights; without that there is no time.

bfloat16 pays on CPUs that multiply in it faster than in float32; where there are no instructions for that it is left
out, unless it is asked for (--bfloat16). The file says what the CPU has, and how many times as fast as in float32 one
convolution is: AVX512-BF16 alone is much faster than float32 on some processors, and slower on others.

On a CPU our turns run with the trainer's setting of malloc, the plain ones with that which glibc's own adjustment ends
at (`ganfuse.engine.host_memory`).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.plain_biggan import PlainTraining
from ganfuse.bench import records
from ganfuse.bench.timing import Call, make_timer, measure
from ganfuse.engine.ema import EMA
from ganfuse.engine.game import Batch
from ganfuse.engine.host_memory import hand_back_memory, keep_freed_memory
from ganfuse.engine.loss_record import LossRecord
from ganfuse.engine.noise import Noise
from ganfuse.engine.precision import Precision
from ganfuse.engine.turn_runner import TurnRunner
from ganfuse.models import create
from ganfuse.models.biggan_game import BigGANGame

RESULTS = Path(__file__).resolve().parent / "results"
CLASSES = 10
PRECISIONS = {"float32": ("fp32", None), "bfloat16": ("bf16", torch.bfloat16)}
INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
TOLERANCE = 1e-9


def make_game(args: argparse.Namespace, dtype: torch.dtype = torch.float32) -> BigGANGame:
    """The same weights every time."""
    torch.manual_seed(0)
    game = create(
        "biggan",
        resolution=args.resolution,
        width=args.width,
        num_classes=CLASSES,
        discriminator_steps=1,
        orthogonal=0.0,
        ema_start=0,
    )
    assert isinstance(game, BigGANGame)
    with torch.no_grad():
        for name, parameter in game.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.5)
    return game.to(args.device, dtype).train()


def make_batch(args: argparse.Namespace, dtype: torch.dtype = torch.float32, size: int | None = None) -> Batch:
    generator = torch.Generator().manual_seed(1)
    size = args.batch if size is None else size
    images = torch.rand(size, 3, args.resolution, args.resolution, generator=generator) * 2 - 1
    labels = torch.arange(size) % CLASSES
    return Batch(images.to(args.device, dtype), labels.to(args.device))


def draws_of(game: BigGANGame, n: int) -> tuple[Tensor, Tensor]:
    """Latents and labels as the game draws them in a turn."""
    noise = Noise(torch.Generator().manual_seed(2))
    labels = game.draw_labels(n, noise)
    assert labels is not None
    return game.draw_latents(n, noise), labels


def disagreement(args: argparse.Namespace) -> dict[str, float]:
    """How far losses and gradients in float64 are apart, relative to the plain ones, by player; on 4 images."""
    game, batch = make_game(args, torch.float64), make_batch(args, torch.float64, min(args.batch, 4))
    plain = PlainTraining(game.generator, game.discriminator)  # type: ignore[arg-type]
    plain.generator.double(), plain.discriminator.double()
    z, labels = draws_of(game, len(batch))
    assert batch.labels is not None
    found = {}
    theirs = {
        "discriminator": lambda: plain.discriminator_loss(batch.images, batch.labels, z, labels),  # type: ignore[arg-type]
        "generator": lambda: plain.generator_loss(z, labels),
    }
    for turn in game.turns():
        name = turn.name
        mine = turn.loss(batch, Noise(torch.Generator().manual_seed(2)))["loss"]
        other = theirs[name]()
        apart = [abs(mine - other).item() / abs(other).item()]
        ours = dict(game.get_submodule(name).named_parameters())
        plains = dict(getattr(plain, name).named_parameters())
        assert ours.keys() == plains.keys()
        expected = torch.autograd.grad(other, [plains[key] for key in ours])
        scale = max(gradient.abs().max().item() for gradient in expected)
        for gradient, wanted in zip(torch.autograd.grad(mine, list(ours.values())), expected, strict=True):
            apart.append((gradient - wanted).abs().max().item() / scale)
        found[name] = max(apart)
    return found


def our_call(args: argparse.Namespace, precision: str) -> Call:
    """A turn as the trainer plays it."""
    game, batch = make_game(args), make_batch(args)
    device = torch.device(args.device)
    record = LossRecord(device)
    runner = TurnRunner(game, Precision(PRECISIONS[precision][0], device), record)
    averages = [EMA.of(target, game) for target in game.ema_targets()]
    if precision == "bfloat16":
        batch = Batch(batch.images.contiguous(memory_format=torch.channels_last), batch.labels)

    def run(_: object) -> None:
        for turn in runner.turns:
            runner.play(turn, [(batch, lambda: Noise(torch.Generator().manual_seed(2)))], 1)
        for average in averages:
            average.update(game.generator)
        record.flush()

    return Call(run, keep_freed_memory) if device.type == "cpu" else Call(run)


def plain_call(args: argparse.Namespace, precision: str) -> Call:
    game, batch = make_game(args), make_batch(args)
    plain = PlainTraining(game.generator, game.discriminator, PRECISIONS[precision][1])  # type: ignore[arg-type]
    images = batch.images
    if precision == "bfloat16":
        images = images.contiguous(memory_format=torch.channels_last)

    def run(_: object) -> None:
        # Drawn in the turn, as ours are.
        plain.turn(images, batch.labels, [draws_of(game, len(batch)) for _ in range(2)])  # type: ignore[arg-type]

    return Call(run, hand_back_memory) if args.device == "cpu" else Call(run)


def instructions() -> list[str]:
    """Which of the instruction sets that decide about speed this processor has."""
    try:
        flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        return []
    return [name for name in INSTRUCTIONS if name in flags.split()]


def bfloat16_gain() -> float:
    """How many times as fast as in float32 a convolution with its gradients is on this CPU in bfloat16."""
    calls = {str(dtype): _convolution(dtype) for dtype in (torch.float32, torch.bfloat16)}
    timings = measure(calls, make_timer(torch.device("cpu")), rounds=7, seconds=0.0)
    return timings["torch.float32"].over(timings["torch.bfloat16"])


def _convolution(dtype: torch.dtype) -> Call:
    x, weight = (
        torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        for shape in ((16, 128, 32, 32), (128, 128, 3, 3))
    )

    def run(_: object) -> None:
        y = torch.nn.functional.conv2d(x, weight, padding=1)
        torch.autograd.grad(y, (x, weight), torch.ones_like(y))

    return Call(run)


def measure_turns(args: argparse.Namespace) -> dict[str, Any]:
    """The row of the result file."""
    row: dict[str, Any] = {
        "kind": "row",
        "case": f"biggan-{args.resolution}/width {args.width}/batch {args.batch}",
        "instructions": instructions(),
        "disagreement": disagreement(args),
    }
    if torch.device(args.device).type == "cpu":
        row["bfloat16_gain"] = bfloat16_gain()
    if not max(row["disagreement"].values()) <= TOLERANCE:
        return row | {"wrong": True}
    calls = {}
    for precision in PRECISIONS if args.bfloat16 else ("float32",):
        calls[f"plain {precision}"] = plain_call(args, precision)
        calls[f"ganfuse {precision}"] = our_call(args, precision)
    timings = measure(calls, make_timer(torch.device(args.device)), rounds=args.rounds, seconds=args.seconds)
    first = timings["plain float32"]
    return row | {
        "rounds": args.rounds,
        "turns": {
            name: {
                "ms": 1e3 * timing.median,
                "spread": timing.spread,
                "over_same": timings[f"plain {name.split()[1]}"].over(timing),
                "over_float32": first.over(timing),
            }
            for name, timing in timings.items()
        },
    }


def report(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [
        "| turn | form | ms | spread | plain in this type / it | plain in float32 / it |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.get("wrong"):
            lines.append(f"| {row['case']} | wrong: {row['disagreement']} | | | | |")
            continue
        for name, turn in row["turns"].items():
            lines.append(
                f"| {row['case']} | {name} | {turn['ms']:.1f} | {100 * turn['spread']:.0f} % "
                f"| {turn['over_same']:.2f} | {turn['over_float32']:.2f} |"
            )
    gains = [row["bfloat16_gain"] for row in rows if "bfloat16_gain" in row]
    if gains:
        lines.append(f"\nOne convolution alone is {gains[-1]:.2f} times as fast in bfloat16 as in float32 there.")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--bfloat16", action=argparse.BooleanOptionalAction, help="default: where the hardware multiplies in it"
    )
    parser.add_argument("--threads", type=int, default=1, help="of a CPU. 1 (default): CPU time; more: wall time")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="that one form gets in one round, one turn at least")
    parser.add_argument("--out", type=Path, help="result file (JSON lines); default: benchmarks/results")
    parser.add_argument("--restart", action="store_true", help="begin the file anew")
    parser.add_argument("--report", type=Path, metavar="FILE", help="print the table of a result file")
    args = parser.parse_args(argv)
    if args.report:
        print(report([row for row in records.read(args.report) if row["kind"] == "row"]))
        return 0
    device = torch.device(args.device)
    if args.bfloat16 is None:
        args.bfloat16 = device.type != "cpu" or any(name.endswith("bf16") for name in instructions())
    if device.type == "cpu":
        torch.set_num_threads(args.threads)
    about = records.header("biggan-turn", device, "python -m benchmarks.biggan_turn")
    out = args.out or RESULTS / f"biggan-turn-{device.type}.jsonl"
    try:
        file = records.ResultFile(out, about, restart=args.restart)
    except records.OtherRunError as error:
        print(error, file=sys.stderr)
        return 2
    row = measure_turns(args)
    if row["case"] not in {known["case"] for known in file.rows()}:
        file.append(row)
    print(report([row]))
    return 1 if row.get("wrong") else 0


if __name__ == "__main__":
    raise SystemExit(main())
