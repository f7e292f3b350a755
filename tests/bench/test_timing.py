"""The timing harness against operations whose cost is known, on a clock that the test moves."""

from types import SimpleNamespace

import pytest
import torch

from ganfuse.bench.timing import Call, CpuTimer, CudaTimer, Timing, measure


class Clock:
    """A clock that work moves on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def work(self, seconds):
        self.now += seconds


def test_a_known_cost_is_the_time_measured():
    clock = Clock()
    timings = measure(
        {"one": Call(lambda _: clock.work(1e-3)), "three": Call(lambda _: clock.work(3e-3))},
        CpuTimer(clock), rounds=4, seconds=5e-3, clock=clock,
    )  # fmt: skip
    assert timings["one"].median == pytest.approx(1e-3)
    assert timings["three"].over(timings["one"]) == pytest.approx(3.0)
    assert timings["one"].spread == pytest.approx(0.0, abs=1e-9)
    assert len(timings["one"].rounds) == 4
    # As many as fit the time of a round, one at the least.
    assert {len(round_) for round_ in timings["one"].rounds} <= {4, 5}
    assert {len(round_) for round_ in timings["three"].rounds} == {1}


def test_prepare_is_not_timed_and_its_state_reaches_run():
    clock = Clock()
    seen = []

    def prepare():
        clock.work(10.0)
        return "state"

    def run(state):
        seen.append(state)
        clock.work(1.0)

    timing = measure({"call": Call(run, prepare)}, CpuTimer(clock), rounds=2, seconds=0.0, clock=clock)["call"]
    assert timing.samples == pytest.approx([1.0, 1.0])
    assert set(seen) == {"state"}


def test_a_machine_that_slows_down_does_not_change_the_ratio():
    clock = Clock()
    slowness = [1.0]

    def costing(seconds):
        def run(_):
            clock.work(seconds * slowness[0])
            slowness[0] *= 1.05

        return run

    calls = {"ours": Call(costing(1.0)), "peer": Call(costing(2.0))}
    timings = measure(calls, CpuTimer(clock), rounds=20, seconds=0.0, clock=clock)
    assert timings["peer"].over(timings["ours"]) == pytest.approx(2.0, rel=0.06)
    assert timings["ours"].spread > 0.3
    assert timings["peer"].over_spread(timings["ours"]) < 0.01


def test_the_limit_stops_after_two_rounds():
    clock = Clock()
    call = Call(lambda _: clock.work(1.0))
    timing = measure({"call": call}, CpuTimer(clock), rounds=50, seconds=0.0, limit=0.5, clock=clock)["call"]
    assert len(timing.rounds) == 2


def test_quantiles_and_spread():
    timing = Timing([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert (timing.quantile(0.2), timing.median, timing.quantile(0.8)) == (2.0, 3.5, 5.0)
    assert timing.spread == pytest.approx(3.0 / 3.5)


class FakeGpu:
    """torch.cuda with a queue that runs at once; what is enqueued moves its clock."""

    def __init__(self):
        self.seconds = 0.0
        self.log = []

    def Event(self, enable_timing):
        gpu = self

        class Event:
            def record(self):
                self.at = gpu.seconds
                gpu.log.append("event")

            def elapsed_time(self, other):
                return 1e3 * (other.at - self.at)

        return Event()

    def _sleep(self, cycles):
        self.log.append("hold")
        self.seconds += cycles / 2e9

    def synchronize(self, device=None):
        pass

    def get_device_properties(self, device):
        return SimpleNamespace(L2_cache_size=1 << 20)


def test_gpu_samples_hold_the_run_and_nothing_else(monkeypatch):
    gpu = FakeGpu()
    for name in ("Event", "_sleep", "synchronize", "get_device_properties"):
        monkeypatch.setattr(torch.cuda, name, getattr(gpu, name))

    def prepare():
        gpu.log.append("prepare")
        gpu.seconds += 1.0

    def run(_):
        gpu.log.append("run")
        gpu.seconds += 2e-3

    timer = CudaTimer(torch.device("cpu"))
    call = Call(run, prepare)
    timing = measure({"call": call}, timer, rounds=2, seconds=0.0, least_samples=3)["call"]
    assert timing.samples == pytest.approx([2e-3] * 6)
    assert call.host_seconds is not None
    # Held after everything that is not timed is in the queue, and before the first event.
    assert gpu.log[-5:] == ["prepare", "hold", "event", "run", "event"]
