"""One way to start a kernel: device guard, launch, and a recorder that keeps the arguments instead of launching.

The recorder is what lets a machine without a GPU compile the kernels that a GPU would run: launchers are called
on meta tensors, and the types and divisibilities of their real arguments become the compiler's input.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ganfuse.kernels.backend import INTERPRETED


@dataclass(frozen=True)
class Launch:
    """One recorded kernel launch."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    constants: dict[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 1


_recording: list[Launch] | None = None
_recorded_target = ""


@contextlib.contextmanager
def record_launches(target: str) -> Iterator[list[Launch]]:
    """Keep launches instead of running them, as if the device were `target` (``"sm90"``, ``"gfx942"``, ...)."""
    global _recording, _recorded_target
    outer, outer_target = _recording, _recorded_target
    _recording, _recorded_target = [], target
    try:
        yield _recording
    finally:
        _recording, _recorded_target = outer, outer_target


def target_of(device: torch.device) -> str:
    """Architecture that configurations are chosen for: ``"sm90"``, ``"gfx942"``, or ``"interpreter"``."""
    if _recording is not None:
        return _recorded_target
    if INTERPRETED:
        return "interpreter"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:
        return str(properties.gcnArchName).split(":")[0]
    return f"sm{properties.major}{properties.minor}"


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    device: torch.device,
    args: Sequence[Any],
    constants: dict[str, Any],
    *,
    num_warps: int,
    num_stages: int,
) -> None:
    """Run `kernel` over `grid` on `device` (positional runtime arguments, then constexpr keywords)."""
    if _recording is not None:
        _recording.append(Launch(kernel, grid, tuple(args), dict(constants), num_warps, num_stages))
        return
    if 0 in grid:
        return
    # Without the guard Triton launches on the current device, whatever device the tensors are on.
    guard = (
        torch.cuda.device(device)
        if device.type == "cuda" and device.index not in (None, torch.cuda.current_device())
        else contextlib.nullcontext()
    )
    with guard:
        kernel[grid](*args, **constants, num_warps=num_warps, num_stages=num_stages)
