from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from ganfuse.bench import device_probes
from ganfuse.bench.timing import Call
from ganfuse.engine.gpu_readings import GPUReadings


def event(name, start, end, device):
    return SimpleNamespace(name=name, device_type=device, time_range=SimpleNamespace(start=start, end=end))


def test_launches_are_counted_by_the_range_that_they_lie_in():
    events = [
        event("measured: forward", 10_000, 10_500, DeviceType.CPU),
        event("measured: forward", 10_010, 10_490, DeviceType.CUDA),
        event("kernel", 10_100, 10_200, DeviceType.CUDA),
        event("Memset (Device)", 10_300, 10_310, DeviceType.CUDA),
        event("kernel of nothing measured", 13_000, 13_100, DeviceType.CUDA),
        event("aten::mul", 10_050, 10_060, DeviceType.CPU),
        event("measured: penalty", 16_000, 16_500, DeviceType.CPU),
        event("kernel", 16_100, 16_200, DeviceType.CUDA),
    ]
    assert device_probes.launches_by_range(events) == {"forward": 2, "penalty": 1}


def test_peak_memory_on_a_cpu_is_what_is_held_at_once():
    x = torch.ones(1000, 1000)
    peak = device_probes.peak_bytes(Call(lambda _: ((x + 1) * 2).sum()), torch.device("cpu"))
    assert 2 * x.nbytes <= peak <= 2 * x.nbytes + 1024
    kept = device_probes.peak_bytes(Call(lambda y: y.sum(), lambda: x + 1), torch.device("cpu"))
    assert x.nbytes <= kept <= x.nbytes + 1024


def test_cpus_have_no_such_numbers():
    cpu = torch.device("cpu")
    call = Call(lambda _: None)
    assert device_probes.count_launches({"call": call}, cpu) == {}
    assert device_probes.gpu_state(cpu) == {}
    assert device_probes.device_state(cpu, GPUReadings(cpu)) == {}


class Meter:
    """A GPU that takes half a joule for each call."""

    def __init__(self, counts=True):
        self.calls, self.counts = 0, counts

    def run(self):
        self.calls += 1

    def energy(self):
        return 100.0 + 0.5 * self.calls if self.counts else None


def test_energy_is_that_of_one_call(monkeypatch):
    synchronised = []
    monkeypatch.setattr(torch.cuda, "synchronize", synchronised.append)
    gpu, meter = torch.device("cuda", 0), Meter()
    assert device_probes.joules_per_call(meter.run, gpu, meter, 0.01) == pytest.approx(0.5)
    # The host does not run ahead of the GPU.
    assert len(synchronised) >= 2 + meter.calls // 16
    assert device_probes.joules_per_call(meter.run, gpu, Meter(counts=False), 0.01) is None
