"""What the state of U-GAT-IT's training takes: weights, gradients, moments, and the checkpoint, as resident memory.

    python benchmarks/ugatit_memory.py                    # every variant, each in a process of its own; up to 11 GB
    python benchmarks/ugatit_memory.py --only light --only "style_grid=16"
    python benchmarks/ugatit_memory.py --step             # also the peak of a whole step, activations included
    python benchmarks/ugatit_memory.py --report benchmarks/results/ugatit-memory-cpu.jsonl

The full model has a linear layer of resolution² · width² weights in each translator. Gradients are those of one player
at a time, as the trainer keeps them. GB are 10⁹ bytes, of what the process holds beyond what it held before there was a
model. Results are JSON lines.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.translation_step import GanfuseStep, Settings, make_batch, resident
from ganfuse.bench import records
from ganfuse.engine.translation import TranslationGame
from ganfuse.models import create

DEFAULT_OUT = Path(__file__).resolve().parent / "results" / "ugatit-memory-cpu.jsonl"
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, lean_adam": {"optimizer": "lean_adam"},
    "style_grid=16": {"style_grid": 16},
    "style_grid=16, lean_adam": {"style_grid": 16, "optimizer": "lean_adam"},
    "style_grid=8": {"style_grid": 8},
    "light": {"light": True},
    "full, 128 px": {"resolution": 128},
    "full, 128 px, lean_adam": {"resolution": 128, "optimizer": "lean_adam"},
}


def make_game(config: Mapping[str, Any]) -> TranslationGame:
    game = create("ugatit", **{"resolution": 256, **config})
    assert isinstance(game, TranslationGame)
    return game


def state_bytes(config: Mapping[str, Any]) -> dict[str, int]:
    """Of one variant: the tensors' own bytes, and what the process holds at each stage and at most.

    Every player gets gradients and makes a step, as after a backward pass, in the order of the turns: the generators
    come last, when all other moments are there. No image is translated.
    """
    before = resident("VmRSS")
    game = make_game(config)
    found = {"weights": sum(map(_bytes, game.parameters())), "gradients": 0, "moments": 0}
    found["resident_weights"] = resident("VmRSS") - before
    optimizers = []
    players = {player.name: player for player in game.players()}
    for player in (players[name] for turn in game.turns() for name in turn.players):
        parameters = player.parameters(game)
        optimizers.append(player.optimizer(player.parameter_groups(game)))
        for parameter in parameters:
            # Not zeros, which would take no memory before somebody writes to them.
            parameter.grad = torch.full_like(parameter, 1e-3)
        found["gradients"] = max(found["gradients"], sum(map(_bytes, parameters)))
        optimizers[-1].step()
        optimizers[-1].zero_grad(set_to_none=True)
        tensors = (value for state in optimizers[-1].state.values() for value in state.values())
        found["moments"] += sum(_bytes(value) for value in tensors if isinstance(value, torch.Tensor))
    found["resident_kept"] = resident("VmRSS") - before
    found["resident_peak"] = resident("VmHWM") - before
    return found


def step_bytes(config: Mapping[str, Any]) -> int:
    """The peak of a second whole step with one picture of each domain, with everything."""
    game = make_game(config)
    channels, side, _ = game.image_shape
    batch = make_batch(Settings(side, 64, channels), torch.device("cpu"))
    del game
    before = resident("VmRSS")
    step = GanfuseStep(make_game(config), torch.device("cpu")).step
    step(batch)
    Path("/proc/self/clear_refs").write_text("5")
    step(batch)
    return resident("VmHWM") - before


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _elsewhere(name: str, what: str) -> Any:
    """A measurement in a process of its own."""
    command = [sys.executable, __file__, "--measure", what, "--only", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring {name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def report(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, in GB."""
    lines = ["| | weights | gradients | moments | sum | resident at most | checkpoint | a whole step |"]
    lines += ["| --- " * 8 + "|"]
    for row in rows:
        parts = [row["weights"], row["gradients"], row["moments"]]
        cells = [*parts, sum(parts), row["resident_peak"], row["weights"] + row["moments"]]
        step = f"{row['step_peak'] / 1e9:.2f}" if "step_peak" in row else "–"
        lines.append(f"| {row['case']} | {' | '.join(f'{cell / 1e9:.2f}' for cell in cells)} | {step} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(VARIANTS), help="may be repeated")
    parser.add_argument("--step", action="store_true", help="also the peak of a whole step")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="result file (JSON lines)")
    parser.add_argument("--restart", action="store_true", help="begin the file anew")
    parser.add_argument("--report", type=Path, metavar="FILE", help="print the table of a result file")
    parser.add_argument("--measure", choices=("state", "step"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.report:
        print(report([row for row in records.read(args.report) if row["kind"] == "row"]))
        return 0
    names = args.only or list(VARIANTS)
    torch.set_num_threads(1)
    if args.measure:
        config = VARIANTS[names[0]]
        print(json.dumps(state_bytes(config) if args.measure == "state" else step_bytes(config)))
        return 0
    about = records.header("ugatit-memory", torch.device("cpu"), "python benchmarks/ugatit_memory.py", folder="models")
    try:
        file = records.ResultFile(args.out, about, restart=args.restart)
    except records.OtherRunError as error:
        print(error, file=sys.stderr)
        return 2
    done = {row["case"] for row in file.rows()}
    for name in names:
        if name not in done:
            row = {"kind": "row", "case": name, **_elsewhere(name, "state")}
            file.append(row | ({"step_peak": _elsewhere(name, "step")} if args.step else {}))
    print(report(file.rows()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
