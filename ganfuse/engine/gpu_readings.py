"""What a GPU says of itself while a run goes on: memory, power, clocks, temperature, use."""

import importlib
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["GPUReadings"]


class GPUReadings:
    """Reads one GPU. Memory comes from PyTorch; the rest through NVIDIA's library where `nvidia-ml-py` is installed.

    Args:
        device: of the run. On anything but a CUDA device there is nothing to read.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._nvml: Any = None
        self._handle: Any = None
        if device.type == "cuda":
            self._connect()

    def read(self) -> dict[str, float]:
        """Readings by name: memory in GiB, power in watts, clocks in MHz, temperature in °C, use in percent."""
        if self._device.type != "cuda":
            return {}
        found = {
            "memory_peak_gib": torch.cuda.max_memory_allocated(self._device) / 2**30,
            "memory_reserved_gib": torch.cuda.memory_reserved(self._device) / 2**30,
        }
        if self._handle is not None:
            nvml, handle = self._nvml, self._handle
            readings: tuple[tuple[str, Callable[[], Any]], ...] = (
                ("power_w", lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000.0),
                ("clock_mhz", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
                ("temperature_c", lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
                ("use_percent", lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
            )
            for name, read in readings:
                try:
                    found[name] = float(read())
                except nvml.NVMLError:
                    continue  # not every GPU tells everything
        return {name: round(value, 3) for name, value in found.items()}

    def energy(self) -> float | None:
        """Joules that the GPU has taken since its driver was loaded; None where it does not count them."""
        if self._handle is None:
            return None
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000.0
        except self._nvml.NVMLError:
            return None

    def throttling(self) -> list[str]:
        """Why the GPU's clock is now lower than it could be, such as "SwPowerCap"; empty where it is not, or untold."""
        if self._handle is None:
            return []
        try:
            reasons = int(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle))
        except (self._nvml.NVMLError, AttributeError):
            return []
        prefix = "nvmlClocksThrottleReason"
        names = {
            name.removeprefix(prefix): getattr(self._nvml, name) for name in dir(self._nvml) if name.startswith(prefix)
        }
        # Nothing to do is no reason for concern, and All and None are no bits.
        return sorted(
            name for name, bit in names.items() if name not in ("All", "None", "GpuIdle") and bit and reasons & bit
        )

    def _connect(self) -> None:
        try:
            self._nvml = importlib.import_module("pynvml")
        except ImportError:
            return
        try:
            self._nvml.nvmlInit()
            # Its own numbers are those of the machine, PyTorch's those that CUDA_VISIBLE_DEVICES has left.
            uuid = str(torch.cuda.get_device_properties(self._device).uuid)
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
        except (self._nvml.NVMLError, AttributeError):
            self._handle = None
