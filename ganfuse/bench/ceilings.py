"""What this device can do at best, measured in the run whose results are held against it."""

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ganfuse.bench.timing import Call, CudaTimer, Timer

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Ceilings:
    """Attributes:
    copy: bytes/s of a copy within the device's memory, read and written counted.
    matmul: FLOP/s of a large square matrix product, by the type's short name.
    exp: exponentials/s; None on CPUs.
    """

    copy: float
    matmul: dict[str, float]
    exp: float | None

    def record(self) -> dict[str, Any]:
        return {"kind": "ceilings", **asdict(self)}


def measure_ceilings(device: torch.device, timer: Timer, types: Iterable[str]) -> Ceilings:
    """Copy bandwidth, matrix products of `types` on random numbers, exponentials."""
    gpu = device.type == "cuda"
    matmul = {}
    # Matrix products first: they bring a GPU that was idle up to its working clock.
    for name in types:
        size = (8192 if name != "fp32" else 4096) if gpu else 1024
        a, b = (torch.randn(size, size, device=device).to(_TYPES[name]) for _ in range(2))
        out = torch.empty_like(a)
        matmul[name] = 2 * size**3 / _median(Call(partial(_product, a, b, out)), timer, gpu)
        del a, b, out
    source = torch.randn((1 << 29) if gpu else (1 << 25), device=device)
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / _median(Call(lambda _: target.copy_(source)), timer, gpu)
    return Ceilings(copy, matmul, _exp_rate(device, timer) if isinstance(timer, CudaTimer) else None)


def _product(a: Tensor, b: Tensor, out: Tensor, _: Any) -> None:
    torch.mm(a, b, out=out)


def _median(call: Call, timer: Timer, gpu: bool) -> float:
    for _ in range(20 if gpu else 2):
        call.run(call.prepare())
    return statistics.median(timer.sample(call, 20 if gpu else 5))


def _exp_rate(device: torch.device, timer: Timer) -> float:
    from ganfuse.bench.exponentials import BLOCK, REPEATS, exponentials

    programs = 64 * torch.cuda.get_device_properties(device).multi_processor_count
    out = torch.empty(programs * BLOCK, device=device)

    def run(_: Any) -> None:
        exponentials[(programs,)](out, BLOCK=BLOCK, REPEATS=REPEATS, num_warps=4)

    return programs * BLOCK * REPEATS / _median(Call(run), timer, True)
