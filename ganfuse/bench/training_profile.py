"""Where the time of a training step goes: by group of operations, by turn, and how much of it is in our kernels."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, record_function

from ganfuse.bench.device_probes import quiet_profiler
from ganfuse.bench.op_groups import OURS_PREFIX, cpu_group, kernel_group, our_kernels, our_op
from ganfuse.engine.game import Turn
from ganfuse.engine.trainer import Trainer

__all__ = ["StepProfile", "covering_steps", "period_of", "plays_per_step", "profile_training", "summarise", "typical"]

_PREFIX = "bench: "
_TURN = f"{_PREFIX}turn "
_DATA = f"{_PREFIX}data"
_REST = ""
# Turns that are rarer than that are not waited for.
_HORIZON = 64
_LONGEST_PERIOD = 16
_REPETITIONS = 5


@dataclass
class StepProfile:
    """A step, on average over the rhythm of its turns.

    Attributes:
        groups: milliseconds by group: of kernels on a GPU, of operators on a CPU.
        turns: for each turn, how often it is `played` per step, its `ms` in each play, and its `launches` (kernels,
            copies and memory sets; None on CPUs).
        data_ms: that the host spends on drawing a batch.
    """

    groups: dict[str, float] = field(default_factory=dict)
    turns: dict[str, dict[str, Any]] = field(default_factory=dict)
    data_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        return sum(self.groups.values())

    @property
    def ours(self) -> float:
        """The share of all that is in ganfuse's kernels, or on a CPU in its ops."""
        total = self.total_ms
        ours = sum(ms for group, ms in self.groups.items() if group.startswith(OURS_PREFIX))
        return ours / total if total else 0.0

    def record(self) -> dict[str, Any]:
        ordered = dict(sorted(self.groups.items(), key=lambda pair: -pair[1]))
        return {
            "groups": ordered, "ours_share": self.ours, "profiled_ms": self.total_ms, "turns": self.turns,
            "data_ms": self.data_ms,
        }  # fmt: skip


def _plays(turns: Sequence[Turn], step: int) -> dict[str, int]:
    return {turn.name: turn.repeats for turn in turns if turn.is_played(step)}


def period_of(turns: Sequence[Turn]) -> int:
    """After how many steps the pattern of turns repeats; 16 for those that need longer."""
    steps = range(1, _HORIZON + 1)
    for period in range(1, _LONGEST_PERIOD + 1):
        if all(_plays(turns, step) == _plays(turns, step + period) for step in steps):
            return period
    return _LONGEST_PERIOD


def plays_per_step(turns: Sequence[Turn]) -> dict[str, float]:
    """How often each turn is played in a step, on average; without turns that are rarer than every 64 steps."""
    # Whole periods, or one would count for more than it has.
    steps = _HORIZON // period_of(turns) * period_of(turns)
    counts = [_plays(turns, step) for step in range(1, steps + 1)]
    found = {turn.name: sum(count.get(turn.name, 0) for count in counts) / steps for turn in turns}
    return {name: rate for name, rate in found.items() if rate}


def covering_steps(turns: Sequence[Turn]) -> list[int]:
    """As few steps as it takes to play every turn, the one that plays most of them first."""
    left = set(plays_per_step(turns))
    steps = []
    while left:
        step = max(range(1, _HORIZON + 1), key=lambda s: len(left & _plays(turns, s).keys()))
        steps.append(step)
        left -= _plays(turns, step).keys()
    return steps


def profile_training(trainer: Trainer) -> StepProfile:
    """Play each turn at least once and look at what ran. Inside `trainer.global_randomness.active()`.

    CUDA graphs, if the trainer has them, must be captured already.
    """
    turns, device = trainer.turn_runner.turns, trainer.device
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    steps = covering_steps(turns)
    quiet_profiler()
    # The first profile of a process sets itself up while it runs.
    with torch.profiler.profile(activities=activities):
        trainer.play_step()
        _synchronise(device)
    found = []
    for _ in range(_REPETITIONS):
        with _marked(trainer), torch.profiler.profile(activities=activities) as profiler:
            for step in steps:
                trainer.step = step - 1
                with record_function(f"{_PREFIX}step"):
                    trainer.play_step()
                    _synchronise(device)
        events = list(profiler.events() or ())
        found.append(summarise(events, plays_per_step(turns), steps=len(steps), gpu=device.type == "cuda"))
    return typical(found)


def typical(profiles: Sequence[StepProfile]) -> StepProfile:
    """The medians of several: what another program on the machine takes for itself comes in few of them."""
    groups = {group for profile in profiles for group in profile.groups}
    return StepProfile(
        {group: statistics.median(profile.groups.get(group, 0.0) for profile in profiles) for group in groups},
        {
            name: turn | {"ms": statistics.median(profile.turns[name]["ms"] for profile in profiles)}
            for name, turn in profiles[0].turns.items()
        },
        statistics.median(profile.data_ms for profile in profiles),
    )


@contextmanager
def _marked(trainer: Trainer) -> Iterator[None]:
    """Inside, a profile has a range for each play of a turn and for each batch that is drawn."""
    runner, batches, device = trainer.turn_runner, trainer.batches, trainer.device
    play, draw = runner.play, batches.next

    def marked_play(turn: Turn, *args: Any) -> None:
        _synchronise(device)
        with record_function(_TURN + turn.name):
            play(turn, *args)
            # What it has launched is its own.
            _synchronise(device)

    def marked_draw(*args: Any) -> Any:
        with record_function(_DATA):
            return draw(*args)

    vars(runner)["play"], vars(batches)["next"] = marked_play, marked_draw
    try:
        yield
    finally:
        del vars(runner)["play"], vars(batches)["next"]


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def summarise(events: Iterable[Any], rates: Mapping[str, float], *, steps: int, gpu: bool) -> StepProfile:
    """The average step, from the events of a profile whose turns are marked.

    Args:
        events: as `torch.profiler.profile.events()` gives them.
        rates: plays of each turn per step.
        steps: how many were profiled; what lies outside of turns is divided by it.
        gpu: count what ran on the GPU, and not operators on the host.
    """
    events = list(events)
    host = [event for event in events if event.device_type == DeviceType.CPU]
    ranges = [event for event in host if event.name.startswith(_TURN)]
    counts = {name: sum(event.name == _TURN + name for event in ranges) for name in rates}
    weights = {name: rate / counts[name] for name, rate in rates.items() if counts[name]}
    profile = StepProfile()
    # Ranges of the host come back as events of the GPU, such as "Optimizer.step".
    annotations = {event.name for event in host} - our_kernels().keys()
    spent = _on_gpu(events, ranges, annotations) if gpu else _on_cpu(host)
    by_turn: dict[str, float] = {}
    launches: dict[str, int] = {}
    for turn, group, milliseconds in spent:
        weight = weights.get(turn, 1 / steps)
        profile.groups[group] = profile.groups.get(group, 0.0) + weight * milliseconds
        by_turn[turn] = by_turn.get(turn, 0.0) + milliseconds
        launches[turn] = launches.get(turn, 0) + 1
    for name in weights:
        profile.turns[name] = {
            "played": rates[name],
            "ms": by_turn.get(name, 0.0) / counts[name],
            "launches": round(launches.get(name, 0) / counts[name]) if gpu else None,
        }
    profile.data_ms = sum(e.time_range.elapsed_us() for e in host if e.name == _DATA) / 1e3 / steps
    return profile


def _on_gpu(events: Sequence[Any], ranges: Sequence[Any], annotations: Set[str]) -> Iterator[tuple[str, str, float]]:
    """(turn, group, milliseconds) of each kernel, copy and memory set."""
    # The two clocks of a profile agree to some microseconds only; turns begin and end with an idle GPU.
    slack = 20.0
    spans = [(r.time_range.start - slack, r.time_range.end + slack, r.name.removeprefix(_TURN)) for r in ranges]
    for event in events:
        if event.device_type == DeviceType.CUDA and event.name not in annotations:
            start = event.time_range.start
            turn = next((name for first, last, name in spans if first <= start <= last), _REST)
            yield turn, kernel_group(event.name), event.time_range.elapsed_us() / 1e3


def _on_cpu(host: Sequence[Any]) -> Iterator[tuple[str, str, float]]:
    """(turn, group, milliseconds) of each operator, without what others do inside it."""
    for event in host:
        group, turn = "", _REST
        above = event
        while above is not None:
            name = above.name
            if not group:
                if op := our_op(name):
                    group = OURS_PREFIX + op
                elif name.startswith("Optimizer.step"):
                    group = "optimiser and averages"
                elif name == _DATA:
                    group = "data"
            if name.startswith(_TURN):
                turn = name.removeprefix(_TURN)
            above = above.cpu_parent
        yield turn, group or cpu_group(event.name), event.self_cpu_time_total / 1e3
