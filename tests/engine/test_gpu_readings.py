"""Readings of a GPU, with a stand-in for it and for NVIDIA's library."""

import sys
import types

import pytest
import torch

from ganfuse.engine.gpu_readings import GPUReadings


def test_nothing_to_read_on_a_cpu():
    assert GPUReadings(torch.device("cpu")).read() == {}


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 4 * 2**30)
    properties = types.SimpleNamespace(uuid="12-ab")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    return torch.device("cuda", 0)


def library(**overrides):
    class NVMLError(Exception):
        pass

    nvml = types.ModuleType("pynvml")
    nvml.NVMLError, nvml.NVML_CLOCK_SM, nvml.NVML_TEMPERATURE_GPU = NVMLError, 1, 0
    nvml.nvmlInit = lambda: None
    nvml.nvmlDeviceGetHandleByUUID = lambda uuid: uuid
    nvml.nvmlDeviceGetPowerUsage = lambda handle: 350_500 if handle == "GPU-12-ab" else 0
    nvml.nvmlDeviceGetClockInfo = lambda handle, which: 1980
    nvml.nvmlDeviceGetTemperature = lambda handle, which: 61
    nvml.nvmlDeviceGetUtilizationRates = lambda handle: types.SimpleNamespace(gpu=97)
    for name, value in overrides.items():
        setattr(nvml, name, value(NVMLError))
    return nvml


def test_memory_alone_without_the_library(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert GPUReadings(gpu).read() == {"memory_peak_gib": 3.0, "memory_reserved_gib": 4.0}


def test_all_readings(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", library())
    assert GPUReadings(gpu).read() == {
        "memory_peak_gib": 3.0,
        "memory_reserved_gib": 4.0,
        "power_w": 350.5,
        "clock_mhz": 1980.0,
        "temperature_c": 61.0,
        "use_percent": 97.0,
    }


def test_what_a_gpu_does_not_tell_is_left_out(gpu, monkeypatch):
    def refuse(error):
        def call(*arguments):
            raise error("not supported")

        return call

    monkeypatch.setitem(sys.modules, "pynvml", library(nvmlDeviceGetPowerUsage=refuse))
    assert "power_w" not in GPUReadings(gpu).read()
    monkeypatch.setitem(sys.modules, "pynvml", library(nvmlInit=refuse))
    assert "clock_mhz" not in GPUReadings(gpu).read()


def test_energy_and_the_reasons_of_a_low_clock(gpu, monkeypatch):
    nvml = library()
    nvml.nvmlDeviceGetTotalEnergyConsumption = lambda handle: 12_500
    bits = {"GpuIdle": 1, "SwPowerCap": 4, "HwThermalSlowdown": 64, "None": 0, "All": 0xFF}
    for name, bit in bits.items():
        setattr(nvml, f"nvmlClocksThrottleReason{name}", bit)
    nvml.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: 5
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    readings = GPUReadings(gpu)
    assert readings.energy() == 12.5
    assert readings.throttling() == ["SwPowerCap"]


def test_where_nothing_counts_energy_there_is_none(gpu, monkeypatch):
    nvml = library()

    def refuse(handle):
        raise nvml.NVMLError("not supported")

    nvml.nvmlDeviceGetTotalEnergyConsumption = refuse
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert GPUReadings(gpu).energy() is None
    assert GPUReadings(gpu).throttling() == []
    assert GPUReadings(torch.device("cpu")).energy() is None
