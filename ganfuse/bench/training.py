"""Whole training steps, the same ones with one speed feature more or less, side by side."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ganfuse.bench.device_probes import device_state, joules_per_call, peak_bytes
from ganfuse.bench.records import ResultFile
from ganfuse.bench.subject import DEFAULT
from ganfuse.bench.timing import Call, CpuTimer, Timer, Timing, WallTimer, make_timer, measure
from ganfuse.bench.training_profile import covering_steps, period_of, profile_training
from ganfuse.bench.training_variants import NotApplicableError, Variant, held_bytes
from ganfuse.engine.batches import ImageData
from ganfuse.engine.game import Game
from ganfuse.engine.gpu_readings import GPUReadings
from ganfuse.engine.loss_record import NonFiniteError
from ganfuse.engine.trainer import Trainer
from ganfuse.kernels import use_backend

__all__ = ["Subject", "measure_training"]

PASS = "step"
# Of losses, against those of the default, relative to them or to 1. Half types round, and what a step of Adam does to a
# gradient that is next to nothing depends on its sign alone.
_AGREES, _AGREES_IN_HALF = 0.02, 0.25
# Graphs are captured after three plays of a turn.
_WARMUP, _WARMUP_OF_GRAPHS = 1, 5
_ENERGY_SECONDS = 1.0
_PREPARING = 0.6


@dataclass(frozen=True)
class Subject:
    """What is trained.

    Attributes:
        name: of the case in result files. sizes: what it is made of, in words and numbers.
        game: makes it, with the same weights every time. data: the data set. options: of the trainer, for all variants.
    """

    name: str
    model: str
    sizes: Mapping[str, Any]
    game: Callable[[], Game]
    data: ImageData
    options: Mapping[str, Any]

    def record(self) -> dict[str, Any]:
        return {"kind": "case", "case": self.name, "op": "training", "model": self.model, "sizes": dict(self.sizes)}


@dataclass
class _Ready:
    """A variant that plays."""

    variant: Variant
    trainer: Trainer
    losses: dict[str, float] = field(default_factory=dict)
    peak: int | None = None

    def play(self, steps: int) -> None:
        with use_backend(self.variant.backend):
            for _ in range(steps):
                self.trainer.play_step()
            self.trainer.record.flush()


def measure_training(
    subject: Subject,
    variants: Sequence[Variant],
    results: ResultFile,
    device: torch.device,
    *,
    seconds: float,
    rounds: int = 5,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Measure steps of all variants in paired rounds and append the rows of those that the file has not.

    First come losses: where those of a variant's first step are not finite, or not those of the default, it gets no
    time. Accumulation is let off: it changes the statistics of the batch.

    Args:
        seconds: after 3/5 of them no further variant begins, after all no further round, once there are two. What is
            not reached has no row, and the next call goes on with it.
        rounds: in which every variant plays one period of the model's turns at least.
        say: told of progress.

    Returns:
        The new rows, in the order of `variants`.
    """
    there = {row["provider"] for row in results.rows() if row["case"] == subject.name}
    if {variant.name for variant in variants} <= there:
        say(f"all of {subject.name} is there")
        return []
    if not any(r["kind"] == "case" and r["case"] == subject.name for r in results.records):
        results.append(subject.record())
    variants = [variant for variant in variants if variant.name == DEFAULT or variant.name not in there]
    readings = GPUReadings(device)
    results.append({"kind": "state", **device_state(device, readings)})
    deadline = time.monotonic() + seconds
    with ExitStack() as stack:
        ready, failed = _prepare(subject, variants, device, stack, deadline - (1 - _PREPARING) * seconds, say)
        say(f"{len(ready)} variants take turns, up to {rounds} rounds")
        timings, period = _time(ready, device, rounds, deadline)
        rows = []
        for variant in variants:
            if variant.name in there or variant.name not in ready | failed:
                continue
            if variant.name in ready:
                say(f"profile of {variant.name}")
                row = _row(ready[variant.name], timings, period, device, readings)
            else:
                row = failed[variant.name]
            rows.append({"kind": "row", "case": subject.name, "provider": variant.name, "pass": PASS, **row})
            results.append(rows[-1])
    results.append({"kind": "end", **device_state(device, readings)})
    return rows


def _prepare(
    subject: Subject,
    variants: Sequence[Variant],
    device: torch.device,
    stack: ExitStack,
    deadline: float,
    say: Callable[[str], None],
) -> tuple[dict[str, _Ready], dict[str, dict[str, Any]]]:
    """Those that play, and the rows of those that do not."""
    ready: dict[str, _Ready] = {}
    failed: dict[str, dict[str, Any]] = {}
    if any("compile" in variant.features for variant in variants):
        # Variants share code, and each compiles it for itself.
        torch._dynamo.config.cache_size_limit = max(64, torch._dynamo.config.cache_size_limit)
    for number, variant in enumerate(variants):
        # The default and one beside it are the least that says something.
        if number > 1 and time.monotonic() > deadline:
            say(f"the time is up for {', '.join(left.name for left in variants[number:])}; the same command goes on")
            break
        say(f"first steps of {variant.name}")
        torch.manual_seed(0)
        try:
            with _peak(device) as peak:
                found = _start(subject, variant, stack)
            found.peak = peak.get("bytes")
        except (NotApplicableError, NonFiniteError, torch.OutOfMemoryError, RuntimeError) as error:
            failed[variant.name] = _failure(error)
            continue
        wrong = _disagreement(found, ready.get(DEFAULT))
        if wrong:
            failed[variant.name] = {"status": "wrong", "reason": wrong, "losses": found.losses}
        else:
            ready[variant.name] = found
    return ready, failed


def _start(subject: Subject, variant: Variant, stack: ExitStack) -> _Ready:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    trainer = variant.trainer(subject.game(), subject.data, folder / "run", subject.options)
    stack.callback(trainer.batches.close)
    stack.enter_context(trainer.global_randomness.active())
    trainer.game.train()
    found = _Ready(variant, trainer)
    for step in covering_steps(trainer.turn_runner.turns) * (
        _WARMUP_OF_GRAPHS if "cuda_graphs" in variant.features else _WARMUP
    ):
        trainer.step = step - 1
        found.play(1)
        for name, loss in trainer.record.latest.items():
            found.losses.setdefault(name, loss)
    trainer.step = 0
    return found


def _failure(error: Exception) -> dict[str, Any]:
    text = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, NotApplicableError):
        return {"status": "refused", "reason": text}
    if isinstance(error, NonFiniteError):
        status = "wrong"
    elif isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
        status = "no memory"
    else:
        status = "error"
    return {"status": status, "reason": f"{type(error).__name__}: {text}"}


def _disagreement(found: _Ready, default: _Ready | None) -> str:
    """Which losses of the first step differ from the default's, in words; "" if none do."""
    if default is None or found.variant.micro_batches > 1:
        return ""
    features = {*found.variant.features}
    limit = _AGREES_IN_HALF if features & {"bf16", "fp16"} else _AGREES
    compared = found.losses
    if "fp16" in features:
        # Loss scaling leaves out the first steps of the optimisers, so later turns see other networks.
        first = f"{found.trainer.turn_runner.turns[0].name}/"
        compared = {name: loss for name, loss in compared.items() if name.startswith(first)}
    apart = {
        name: (loss, default.losses[name])
        for name, loss in compared.items()
        if name in default.losses and not _agree(loss, default.losses[name], limit)
    }
    return "; ".join(f"{name} is {loss:.4g}, by default {other:.4g}" for name, (loss, other) in apart.items())


def _agree(loss: float, other: float, limit: float) -> bool:
    return abs(loss - other) <= limit * max(1.0, abs(other))


@contextmanager
def _peak(device: torch.device) -> Iterator[dict[str, int]]:
    """The most memory of a GPU that is taken inside, beyond what was taken before; nothing on CPUs."""
    found: dict[str, int] = {}
    if device.type != "cuda":
        yield found
        return
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    yield found
    torch.cuda.synchronize(device)
    found["bytes"] = torch.cuda.max_memory_allocated(device) - before


def _timer(device: torch.device, ready: Mapping[str, _Ready]) -> Timer:
    # One thread's CPU time does not see the processes that read images.
    workers = any(each.trainer.options.workers for each in ready.values())
    timer = make_timer(device) if device.type == "cpu" else None
    return timer if isinstance(timer, CpuTimer) and not workers else WallTimer(device)


def _time(
    ready: Mapping[str, _Ready], device: torch.device, rounds: int, deadline: float
) -> tuple[dict[str, Timing], int]:
    if not ready:
        return {}, 1
    period = period_of(next(iter(ready.values())).trainer.turn_runner.turns)
    calls = {name: Call(lambda _, each=each: each.play(period)) for name, each in ready.items()}  # type: ignore[misc]
    limit = max(deadline - time.monotonic(), 0.0)
    timings = measure(calls, _timer(device, ready), rounds=rounds, seconds=0.5, limit=limit)
    return timings, period


def _row(
    ready: _Ready, timings: Mapping[str, Timing], period: int, device: torch.device, readings: GPUReadings
) -> dict[str, Any]:
    """The numbers of one variant."""
    trainer, timing = ready.trainer, timings[ready.variant.name]
    default = timings.get(DEFAULT)
    before = trainer.images
    ready.play(period)
    images = (trainer.images - before) / period
    scale = 1e3 / period
    held = held_bytes(trainer)
    row: dict[str, Any] = {
        "status": "ok",
        "ms": scale * timing.median,
        "p20_ms": scale * timing.quantile(0.2),
        "p80_ms": scale * timing.quantile(0.8),
        "samples": len(timing.samples),
        "round_ms": [scale * median for median in timing.round_medians],
        "spread": timing.spread,
        "ratio_to_default": None if default is None else default.over(timing),
        "images_per_second": images * period / timing.median,
        "held_bytes": held,
        "losses": ready.losses,
    }
    with use_backend(ready.variant.backend):
        if device.type == "cpu":
            trainer.step = covering_steps(trainer.turn_runner.turns)[0] - 1
            ready.peak = held + (peak_bytes(Call(lambda _: trainer.play_step()), device) or 0)
        row["peak_bytes"] = ready.peak
        try:
            profile = profile_training(trainer)
        except RuntimeError as error:
            # A profiler that does not work here takes nothing from the times.
            return row | {"profile_error": str(error)}
    trainer.record.flush()
    row |= profile.record()
    counted = [turn["played"] * turn["launches"] for turn in profile.turns.values() if turn["launches"] is not None]
    row["launches"] = round(sum(counted)) if counted else None
    if device.type == "cuda":
        row["busy_share"] = profile.total_ms / row["ms"]
        joules = joules_per_call(lambda: ready.play(period), device, readings, _ENERGY_SECONDS)
        row["energy_j"] = None if joules is None else joules / period
    return row
