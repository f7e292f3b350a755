"""A lazily regularised turn of StyleGAN2 beside the plain PyTorch ways of writing it.

    python -m benchmarks.stylegan2_turn                     # on a GPU if there is one, else on the CPU
    python -m benchmarks.stylegan2_turn --device cpu --rounds 7
    python -m benchmarks.stylegan2_turn --report benchmarks/results/stylegan2-turn-cpu.jsonl

Four phases: both players' main losses, R1 and path lengths, each with gradients and the optimiser's step; and the
moving average. A turn is both main phases, the average, a 16th of R1 and a quarter of the path lengths. 64 px, width 64
(at most 512 channels), batches of 8, float32. `benchmarks/plain_stylegan2.py` has the plain forms; all take turns,
round after round, and ratios are medians over rounds. First all must agree: the losses and gradients of all phases in
float64 from the same weights (with fewer channels); without that there is no time.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.plain_stylegan2 import FORMS, PlainTraining
from ganfuse.bench import records
from ganfuse.bench.timing import Call, Timing, make_timer, measure
from ganfuse.engine.ema import EMA
from ganfuse.engine.game import Batch
from ganfuse.engine.loss_record import LossRecord
from ganfuse.engine.noise import Noise
from ganfuse.engine.precision import Precision
from ganfuse.engine.turn_runner import TurnRunner
from ganfuse.models import create
from ganfuse.models.stylegan2 import StyleGAN2Game

RESULTS = Path(__file__).resolve().parent / "results"
TOLERANCE = 1e-9
#: How often each phase is played in a turn.
SHARES = {"discriminator": 1.0, "generator": 1.0, "penalty": 1 / 16, "path_length": 1 / 4, "average": 1.0}


def make_game(args: argparse.Namespace, dtype: torch.dtype = torch.float32, most: int = 512) -> StyleGAN2Game:
    """The same weights every time; noise and biases are not 0, as they would be in the beginning.

    Args:
        args, dtype: see `main`.
        most: channels, and elements of z and w.
    """
    torch.manual_seed(0)
    features = min(args.features, most)
    game = create(
        "stylegan2",
        resolution=args.resolution,
        width=min(args.width, most),
        channel_max=most,
        latent_dim=features,
        style_features=features,
    )
    assert isinstance(game, StyleGAN2Game)
    with torch.no_grad():
        for name, parameter in game.named_parameters():
            if name.endswith(("noise_strength", "bias")):
                parameter.add_(0.1)
        game.path_length_mean.value.fill_(0.1)
    return game.to(args.device, dtype).train()


def make_batch(args: argparse.Namespace, dtype: torch.dtype = torch.float32, size: int | None = None) -> Batch:
    generator = torch.Generator().manual_seed(1)
    size = args.batch if size is None else size
    images = torch.rand(size, 3, args.resolution, args.resolution, generator=generator) * 2 - 1
    return Batch(images.to(args.device, dtype))


def noise_of_turn() -> Noise:
    return Noise(torch.Generator().manual_seed(2))


def plain_loss(plain: PlainTraining, game: StyleGAN2Game, phase: str, images: Tensor) -> Tensor:
    """The loss of a phase, with the draws that the game makes in it."""
    if phase == "penalty":
        return plain.penalty_loss(images)
    noise = noise_of_turn()
    n = max(1, len(images) // 2) if phase == "path_length" else len(images)
    z, mixed = game.draw_latents(n, noise), game.draw_mixing(n, noise)
    assert mixed is not None
    if phase == "discriminator":
        return plain.discriminator_loss(images, z, mixed)
    if phase == "generator":
        return plain.generator_loss(z, mixed)
    directions = noise.normal(n, *images.shape[1:], dtype=images.dtype).to(images.device)
    return plain.path_length_loss(z, mixed, directions)


def disagreement(args: argparse.Namespace) -> dict[str, float]:
    """How far losses and gradients in float64 are apart, relative to the plain ones, by form and phase.

    On 4 images, and with few channels: what is wrong is so with them, too, and float64 takes long.
    """
    found = {}
    for form in FORMS:
        game, batch = make_game(args, torch.float64, most=32), make_batch(args, torch.float64, min(args.batch, 4))
        plain = PlainTraining(game, form)
        for turn in game.turns():
            player = turn.players[0]
            # For the noise that is drawn inside the networks.
            torch.manual_seed(3)
            mine = turn.loss(batch, noise_of_turn())["loss"]
            torch.manual_seed(3)
            other = plain_loss(plain, game, turn.name, batch.images)
            ours, theirs = game.get_submodule(player), getattr(plain, player)
            expected = torch.autograd.grad(other, list(theirs.parameters()), materialize_grads=True)
            gradients = torch.autograd.grad(mine, list(ours.parameters()), materialize_grads=True)
            scale = max(gradient.abs().max().item() for gradient in expected)
            apart = [abs(mine - other).item() / abs(other).item()]
            apart += [(a - b).abs().max().item() / scale for a, b in zip(gradients, expected, strict=True)]
            found[f"{form} {turn.name}"] = max(apart)
    return found


def our_calls(args: argparse.Namespace) -> dict[str, Call]:
    """The phases as the trainer plays them."""
    game, batch = make_game(args), make_batch(args)
    device = torch.device(args.device)
    record = LossRecord(device)
    runner = TurnRunner(game, Precision("fp32", device), record)
    averages = [EMA.of(target, game) for target in game.ema_targets()]

    def phase(turn: Any) -> Call:
        def run(_: object) -> None:
            runner.play(turn, [(batch, noise_of_turn)], 1)
            record.flush()

        return Call(run)

    def average(_: object) -> None:
        for kept in averages:
            kept.update(game.generator, images=1_000_000, batch_size=len(batch))

    return {turn.name: phase(turn) for turn in runner.turns} | {"average": Call(average)}


def plain_calls(args: argparse.Namespace, form: str) -> dict[str, Call]:
    game, batch = make_game(args), make_batch(args)
    plain = PlainTraining(game, form)
    players = {turn.name: turn.players[0] for turn in game.turns()}

    def phase(name: str, player: str) -> Callable[[object], None]:
        def run(_: object) -> None:
            plain.freeze_all_but(player)
            plain.step(player, plain_loss(plain, game, name, batch.images))

        return run

    calls = {name: Call(phase(name, player)) for name, player in players.items()}
    return calls | {"average": Call(lambda _: plain.update_average())}


def turns_over(plain: dict[str, Timing], ours: dict[str, Timing]) -> float:
    """A plain turn's time over one of ours: the median of the ratios within a round."""

    def rounds(timings: dict[str, Timing]) -> list[float]:
        medians = {phase: timing.round_medians for phase, timing in timings.items()}
        return [sum(SHARES[p] * values for p, values in zip(medians, round_)) for round_ in zip(*medians.values())]

    return statistics.median(a / b for a, b in zip(rounds(plain), rounds(ours), strict=True))


def measure_turns(args: argparse.Namespace) -> dict[str, Any]:
    """The row of the result file."""
    row: dict[str, Any] = {
        "kind": "row",
        "case": f"stylegan2-{args.resolution}/width {args.width}/batch {args.batch}",
        "disagreement": disagreement(args),
    }
    if not max(row["disagreement"].values()) <= TOLERANCE:
        return row | {"wrong": True}
    forms = {"ganfuse": our_calls(args), **{f"plain {form}": plain_calls(args, form) for form in FORMS}}
    calls = {f"{form}/{phase}": call for form, phases in forms.items() for phase, call in phases.items()}
    timings = measure(calls, make_timer(torch.device(args.device)), rounds=args.rounds, seconds=args.seconds)
    by_form = {form: {phase: timings[f"{form}/{phase}"] for phase in SHARES} for form in forms}
    ours = by_form["ganfuse"]
    return row | {
        "rounds": args.rounds,
        "forms": {
            form: {
                "turn_ms": 1e3 * sum(SHARES[phase] * timing.median for phase, timing in phases.items()),
                "turn_over_ganfuse": turns_over(phases, ours),
                "phases": {
                    phase: {
                        "ms": 1e3 * timing.median,
                        "spread": timing.spread,
                        "over_ganfuse": timing.over(ours[phase]),
                    }
                    for phase, timing in phases.items()
                },
            }
            for form, phases in by_form.items()
        },
    }


def report(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [
        f"| turn | form | {' | '.join(SHARES)} | whole turn (weighted) |",
        f"|{'---|' * (len(SHARES) + 3)}",
    ]
    for row in rows:
        if row.get("wrong"):
            lines.append(f"| {row['case']} | wrong: {row['disagreement']} |{' |' * (len(SHARES) + 1)}")
            continue
        for name, form in row["forms"].items():
            cells = [f"{p['ms']:.0f} ms (×{p['over_ganfuse']:.2f})" for p in form["phases"].values()]
            cells.append(f"{form['turn_ms']:.0f} ms (×{form['turn_over_ganfuse']:.2f})")
            lines.append(f"| {row['case']} | {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "×: time over ganfuse's."])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--features", type=int, default=512, help="of z and w")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="of a CPU. 1 (default): CPU time; more: wall time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1, help="that one phase gets in one round, once at least")
    parser.add_argument("--out", type=Path, help="result file (JSON lines); default: benchmarks/results")
    parser.add_argument("--restart", action="store_true", help="begin the file anew")
    parser.add_argument("--report", type=Path, metavar="FILE", help="print the table of a result file")
    args = parser.parse_args(argv)
    if args.report:
        print(report([row for row in records.read(args.report) if row["kind"] == "row"]))
        return 0
    device = torch.device(args.device)
    if device.type == "cpu":
        torch.set_num_threads(args.threads)
    about = records.header("stylegan2-turn", device, "python -m benchmarks.stylegan2_turn")
    out = args.out or RESULTS / f"stylegan2-turn-{device.type}.jsonl"
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
