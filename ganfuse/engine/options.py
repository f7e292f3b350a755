"""The trainer's options, checked."""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

__all__ = ["TrainerOptions", "option_names", "resolve_device", "unknown_option"]

PRECISIONS = ("fp32", "bf16")
# Options that decide the course of a run: a resumed run must have the same.
FIXED_BY_RUN = ("batch_size", "seed", "precision", "flip")


@dataclass(frozen=True)
class TrainerOptions:
    """See `ganfuse.engine.Trainer`, whose keywords these are."""

    steps: int = 10_000
    batch_size: int = 64
    seed: int = 0
    device: str = "auto"
    precision: str = "fp32"
    flip: bool = False
    checkpoint_every: int = 1000
    sample_every: int = 500
    log_every: int = 10
    keep_checkpoints: int = 2
    num_samples: int = 64
    workers: int = 0
    resume: bool = False
    overwrite: bool = False
    time_limit: float | None = None
    deterministic: bool = False
    progress: bool = True
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "keep_checkpoints", "num_samples"):
            self._require_int(name, 1)
        for name in ("seed", "checkpoint_every", "sample_every", "workers"):
            self._require_int(name, 0)
        for name in ("flip", "resume", "overwrite", "deterministic", "progress", "tensorboard"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise ValueError(f"{name}: expected True or False, got {value!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(map(repr, PRECISIONS))}, got {self.precision!r}")
        limit = self.time_limit
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0):
            raise ValueError(f"time_limit: expected seconds above 0 or None, got {limit!r}")
        if self.resume and self.overwrite:
            raise ValueError("resume: cannot be combined with overwrite; give one of the two")

    def _require_int(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")


def option_names() -> list[str]:
    """The names of all options."""
    return [field.name for field in fields(TrainerOptions)]


def unknown_option(unknown: Mapping[str, Any], known: Collection[str]) -> ValueError:
    """The error for keywords that nobody knows, naming the nearest known one."""
    name = next(iter(unknown))
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known options: {', '.join(known)}"
    return ValueError(f"{name}: the trainer has no such option; {hint}")


def resolve_device(device: str | torch.device) -> torch.device:
    """The device of that name; "auto" is the current GPU if PyTorch can use one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device: expected 'auto', 'cpu', 'cuda', 'cuda:1' or the like, got {device!r}") from error
    if resolved.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device: {device} was asked for, but PyTorch finds no usable GPU here")
        index = torch.cuda.current_device() if resolved.index is None else resolved.index
        if index >= torch.cuda.device_count():
            raise ValueError(f"device: {device} was asked for, but there are only {torch.cuda.device_count()} GPUs")
        return torch.device("cuda", index)
    try:
        torch.empty(0, device=resolved)
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise ValueError(f"device: {device} cannot be used here ({error})") from error
    if resolved.type == "meta":
        raise ValueError("device: nothing can be trained on the meta device")
    return resolved
