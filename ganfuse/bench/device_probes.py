"""Peak memory, kernel launches, energy and the state of a GPU."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType

from ganfuse.bench.timing import Call
from ganfuse.engine.gpu_readings import GPUReadings


def peak_bytes(call: Call, device: torch.device) -> int | None:
    """The most memory that `prepare` and `run` hold together beyond what was held before.

    On CPUs it is what goes through PyTorch's allocator, by its profiler; None on anything but CPUs and CUDA devices.
    """
    if device.type == "cpu":
        return _cpu_peak_bytes(call)
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    state = call.prepare()
    result = call.run(state)
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    del state, result
    return peak


def quiet_profiler() -> None:
    """Before the first profile of the process."""
    # Some builds of PyTorch write two lines to stderr for each profile; read when the first one begins.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def _cpu_peak_bytes(call: Call) -> int:
    quiet_profiler()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        state = call.prepare()
        result = call.run(state)
    del state, result
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = [(e["ts"], int(e["args"]["Bytes"])) for e in events if e.get("name") == "[memory]"]
    held = peak = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        held += change
        peak = max(peak, held)
    return peak


def count_launches(calls: Mapping[str, Call], device: torch.device) -> dict[str, int]:
    """Kernels, copies and memory sets that `run` puts on the GPU; empty on CPUs."""
    if device.type != "cuda":
        return {}
    quiet_profiler()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        for name, call in calls.items():
            state = call.prepare()
            torch.cuda.synchronize(device)
            # The two clocks of a profile agree to some microseconds only.
            time.sleep(2e-3)
            with torch.profiler.record_function(_PREFIX + name):
                result = call.run(state)
                torch.cuda.synchronize(device)
            time.sleep(2e-3)
            del state, result
    return launches_by_range(profiler.events())


_PREFIX = "measured: "


def launches_by_range(events: Any) -> dict[str, int]:
    """How many device events lie within each marked range of a profile."""
    ranges = {
        event.name.removeprefix(_PREFIX): (event.time_range.start - 1e3, event.time_range.end + 1e3)
        for event in events
        if event.device_type == DeviceType.CPU and event.name.startswith(_PREFIX)
    }
    starts = [
        event.time_range.start
        for event in events
        if event.device_type == DeviceType.CUDA and not event.name.startswith(_PREFIX)
    ]
    return {name: sum(first <= start <= last for start in starts) for name, (first, last) in ranges.items()}


def joules_per_call(
    run: Callable[[], Any], device: torch.device, readings: GPUReadings, seconds: float
) -> float | None:
    """From the GPU's own counter, over `seconds` of calls one after the other; None where it has none.

    The counter moves some ten times a second, so a quarter of a second is the least that means something.
    """
    torch.cuda.synchronize(device)
    before, began, calls = readings.energy(), time.monotonic(), 0
    if before is None:
        return None
    while time.monotonic() - began < seconds:
        run()
        calls += 1
        if calls % 16 == 0:
            # Else the host would run ahead, and the time be that of enqueueing.
            torch.cuda.synchronize(device)
    torch.cuda.synchronize(device)
    after = readings.energy()
    return None if after is None else (after - before) / calls


def gpu_state(device: torch.device) -> dict[str, Any]:
    """Clock, temperature and power, where they can be read (they need nvidia-ml-py); empty otherwise."""
    if device.type != "cuda":
        return {}
    state = {}
    for name, read in (
        ("sm_clock_mhz", torch.cuda.clock_rate),
        ("temperature_c", torch.cuda.temperature),
        ("power_mw", torch.cuda.power_draw),
    ):
        try:
            state[name] = read(device)
        except Exception:  # each kind of absence raises its own error
            continue
    return state


def device_state(device: torch.device, readings: GPUReadings) -> dict[str, Any]:
    """All that can be read of a GPU, and why its clock is low if it is; empty on CPUs."""
    if device.type != "cuda":
        return {}
    return {**gpu_state(device), **readings.read(), "throttling": readings.throttling()}
