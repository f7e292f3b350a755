"""What the trainer costs beside the work: the share of a step that is not loss, gradients or optimiser.

    python benchmarks/trainer_overhead.py                    # SAGAN-32 on the digits; writes benchmarks/results/
    python benchmarks/trainer_overhead.py --steps 20 --width 8 --out /tmp

The trainer plays as ever; the calls that do the work (each turn's loss, the backward pass, the optimiser's step) are
timed from within. What is left of the time of a step is the trainer's: drawing batches, random numbers, looking at
losses and gradients, averages, logging. On a GPU the device is waited for at each boundary, so that only the share
means something there.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ganfuse.bench import records
from ganfuse.engine import Trainer
from ganfuse.engine.turn_runner import TurnRunner
from ganfuse.models import create

WARMUP = 5


class Stopwatch:
    """Adds up the time inside the calls it wraps."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device = device
        self._depth = 0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            began = self.now()
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.seconds += self.now() - began

        return timed

    def now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def measure(width: int, batch_size: int, steps: int, device: str) -> dict[str, Any]:
    """Milliseconds of a step, of the work in it, and the share that is neither: medians over steps."""
    torch.manual_seed(0)
    game = create("sagan", resolution=32, channels=1, num_classes=10, width=width)
    rows: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as out:
        last = {"time": 0.0, "work": 0.0}

        def note(trainer: Trainer) -> None:
            now = watch.now()
            rows.append((now - last["time"], watch.seconds - last["work"]))
            last.update(time=now, work=watch.seconds)

        trainer = Trainer(
            game, "digits", out=out, steps=steps + WARMUP, batch_size=batch_size, device=device, progress=False,
            sample_every=0, checkpoint_every=0, hooks=[note],
        )  # fmt: skip
        watch = Stopwatch(trainer.device)
        runner: Any = trainer.turn_runner
        make_work = TurnRunner._work

        def timed_work(*args: Any) -> Callable[..., Any]:
            return watch.wrap(make_work(runner, *args))

        runner._work = timed_work
        for optimizer in trainer.turn_runner.optimizers.values():
            optimizer.step = watch.wrap(optimizer.step)  # type: ignore[method-assign]
        last["time"] = watch.now()
        trainer.fit()
    kept = rows[WARMUP:]
    step = statistics.median(total for total, _ in kept)
    work = statistics.median(inner for _, inner in kept)
    share = statistics.median(1.0 - inner / total for total, inner in kept)
    return {
        "kind": "row",
        "model": "sagan-32",
        "width": width,
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "steps": len(kept),
        "step_ms": round(1000 * step, 3),
        "work_ms": round(1000 * work, 3),
        "overhead_share": round(share, 5),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measures and writes JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results", help="folder")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--width", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    lines = [records.header("trainer-overhead", device, " ".join(sys.argv), folder="engine")]
    for width in options.width:
        lines.append(measure(width, options.batch_size, options.steps, options.device))
        row = lines[-1]
        print(
            f"{row['model']} width {width}, batch {options.batch_size}: step {row['step_ms']} ms, "
            f"work {row['work_ms']} ms, overhead {100 * row['overhead_share']:.2f} %"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    path = records.result_path(options.out, "trainer-overhead", device)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
