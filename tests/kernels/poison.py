"""Uninitialised memory that shows: what ganfuse allocates and does not write is NaN in tests."""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils._device

_ALLOCATORS = (
    (torch, "empty"),
    (torch, "empty_like"),
    (torch, "empty_strided"),
    (torch.Tensor, "new_empty"),
    (torch.Tensor, "new_empty_strided"),
)


def _poisoned(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(allocate)
    def wrapper(*args: Any, **kwargs: Any) -> torch.Tensor:
        tensor = allocate(*args, **kwargs)
        if torch.compiler.is_compiling() or type(tensor) is not torch.Tensor or tensor.device.type == "meta":
            return tensor
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.split(".")[0] == "ganfuse" and tensor.is_floating_point():
            with torch.no_grad():
                tensor.fill_(float("nan"))
        return tensor

    return wrapper


@contextlib.contextmanager
def poisoned_allocations() -> Iterator[None]:
    """Fill what ganfuse code allocates uninitialised with NaN."""
    # `with torch.device(...)` looks allocators up in a set that it builds once: let it hold the real ones.
    torch.utils._device._device_constructors()
    originals = [(owner, name, getattr(owner, name)) for owner, name in _ALLOCATORS]
    for owner, name, allocate in originals:
        setattr(owner, name, _poisoned(allocate))
    try:
        yield
    finally:
        for owner, name, allocate in originals:
            setattr(owner, name, allocate)
