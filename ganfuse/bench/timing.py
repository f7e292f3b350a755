"""Timing several implementations of the same thing fairly: interleaved rounds, medians, and the spread between rounds.

A measurement goes round after round; in each round every implementation is timed a few times, in an order that moves
on by one. What is slower now than a minute ago (a shared machine, a warm chip) is slower for all, so that the ratio of
two implementations within a round means more than that of their medians. The difference between the first and the
last rounds of the same implementation is the noise that a difference between two has to exceed.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch


def _nothing() -> None:
    return None


@dataclass
class Call:
    """Something to time.

    Attributes:
        run: what is timed; its argument is what `prepare` returned.
        prepare: runs before every `run`, on the same device queue, and is not timed.
        host_seconds: what the host needs to enqueue a run on an idle GPU; known once a GPU timer has warmed it up.
    """

    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = _nothing
    host_seconds: float | None = None


def _halves_apart(numbers: Sequence[float]) -> float:
    if len(numbers) < 2:
        return float("nan")
    half = len(numbers) // 2
    return abs(statistics.median(numbers[:half]) - statistics.median(numbers[-half:]))


@dataclass
class Timing:
    """Seconds per call, by round."""

    rounds: list[list[float]] = field(default_factory=list)

    @property
    def samples(self) -> list[float]:
        return [sample for round_ in self.rounds for sample in round_]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def round_medians(self) -> list[float]:
        return [statistics.median(round_) for round_ in self.rounds]

    @property
    def spread(self) -> float:
        """How far the medians of the first and the second half of the rounds lie apart, as a share of the median."""
        return _halves_apart(self.round_medians) / self.median

    def quantile(self, share: float) -> float:
        """The sample below which that share of all samples lies (nearest rank)."""
        ordered = sorted(self.samples)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def over(self, other: "Timing") -> float:
        """This time divided by another's: the median of the ratios within a round."""
        return statistics.median(self._ratios(other))

    def over_spread(self, other: "Timing") -> float:
        """How far that ratio differs between the first and the second half of the rounds, as a share of it."""
        return _halves_apart(self._ratios(other)) / self.over(other)

    def _ratios(self, other: "Timing") -> list[float]:
        return [a / b for a, b in zip(self.round_medians, other.round_medians, strict=True)]


class Timer(Protocol):
    """Times calls on one kind of device."""

    def warm_up(self, call: Call) -> float:
        """Run until nothing is first any more; returns the seconds that one sample costs, `prepare` included."""

    def sample(self, call: Call, count: int) -> list[float]:
        """Seconds of `count` runs."""


class CpuTimer:
    """Any clock; `make_timer` says which."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock

    def warm_up(self, call: Call) -> float:
        call.run(call.prepare())
        start = self._clock()
        call.run(call.prepare())
        return self._clock() - start

    def sample(self, call: Call, count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            state = call.prepare()
            start = self._clock()
            result = call.run(state)
            seconds.append(self._clock() - start)
            # Freed here, outside the timed stretch of the next run.
            del state, result
        return seconds


class CudaTimer:
    """Events on the GPU's queue, around runs that start with a cold L2 cache and a full queue.

    The queue is held by a spinning kernel while the host enqueues a run, so that what is timed is the GPU at work and
    never the GPU waiting for the host. What the host needs is a number of its own, in the call.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        # Read, not written: lines that are written back later would cost the run that follows.
        self._other_data = torch.ones(max(4 * cache, 1 << 26) // 4, dtype=torch.int32, device=device)
        self._cycles_per_second = self._calibrate()

    def _calibrate(self) -> float:
        cycles = 20_000_000
        for _ in range(2):
            start, end = self._events(2)
            start.record()
            torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]
            end.record()
            torch.cuda.synchronize(self._device)
        milliseconds: float = start.elapsed_time(end)
        return cycles / (milliseconds * 1e-3)

    @staticmethod
    def _events(count: int) -> list[torch.cuda.Event]:
        return [torch.cuda.Event(enable_timing=True) for _ in range(count)]  # type: ignore[no-untyped-call]

    def _host_seconds(self, call: Call) -> float:
        """Median of a few runs, of one if they take long."""
        seconds: list[float] = []
        began = time.perf_counter()
        while len(seconds) < 5 and (not seconds or time.perf_counter() - began < 0.02):
            state = call.prepare()
            torch.cuda.synchronize(self._device)
            start = time.perf_counter()
            result = call.run(state)
            seconds.append(time.perf_counter() - start)
            torch.cuda.synchronize(self._device)
            del state, result
        return statistics.median(seconds)

    def warm_up(self, call: Call) -> float:
        call.run(call.prepare())
        torch.cuda.synchronize(self._device)
        call.host_seconds = self._host_seconds(call)
        start = time.perf_counter()
        self.sample(call, 2)
        return (time.perf_counter() - start) / 2

    def sample(self, call: Call, count: int) -> list[float]:
        if call.host_seconds is None:
            call.host_seconds = self._host_seconds(call)
        hold = int((2 * call.host_seconds + 100e-6) * self._cycles_per_second)
        starts, ends = self._events(count), self._events(count)
        for start, end in zip(starts, ends):
            state = call.prepare()
            self._other_data.sum()
            torch.cuda._sleep(hold)  # type: ignore[no-untyped-call]
            start.record()
            result = call.run(state)
            end.record()
            del state, result
        torch.cuda.synchronize(self._device)
        return [start.elapsed_time(end) * 1e-3 for start, end in zip(starts, ends)]


class WallTimer:
    """The wall clock around runs that the device has finished: what a user waits, launches included."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def warm_up(self, call: Call) -> float:
        return self.sample(call, 1)[0]

    def sample(self, call: Call, count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            state = call.prepare()
            self._synchronise()
            start = time.perf_counter()
            result = call.run(state)
            self._synchronise()
            seconds.append(time.perf_counter() - start)
            del state, result
        return seconds


def make_timer(device: torch.device) -> CpuTimer | CudaTimer:
    """The timer for tensors of `device`.

    On a CPU it reads the wall clock; with a single thread that thread's CPU time, which other programs on the machine
    do not lengthen.
    """
    if device.type == "cuda":
        return CudaTimer(device)
    return CpuTimer(time.process_time if torch.get_num_threads() == 1 else time.perf_counter)


def measure(
    calls: Mapping[str, Call],
    timer: Timer,
    *,
    rounds: int,
    seconds: float,
    limit: float = float("inf"),
    least_samples: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time `calls` against each other.

    Args:
        rounds: how often each is visited.
        seconds: that a visit may take; it takes longer where `least_samples` runs do.
        limit: seconds after which no further round begins, once there are two.
    """
    names: Sequence[str] = list(calls)
    counts = {}
    for name in names:
        counts[name] = max(least_samples, min(200, int(seconds / max(timer.warm_up(calls[name]), 1e-9))))
    timings = {name: Timing() for name in names}
    began = clock()
    collecting = gc.isenabled()
    gc.disable()
    # What is there already need not be looked at after each round: that takes longer than many a round.
    gc.collect()
    gc.freeze()
    try:
        for visit in range(rounds):
            if visit >= 2 and clock() - began > limit:
                break
            first = visit % len(names)
            for name in (*names[first:], *names[:first]):
                timings[name].rounds.append(timer.sample(calls[name], counts[name]))
            gc.collect()
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()
    return timings
