"""Types of arithmetic: what a dot product of float32 operands may round to, and what autocast asks for."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SUPPORTED_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def dot_precision(dtype: torch.dtype) -> str:
    """``input_precision`` of ``tl.dot`` for operands of `dtype`, following the user's PyTorch setting.

    Half types ignore it. ``fp32_precision`` is asked first: once it was set, the older getter raises.
    """
    if dtype != torch.float32:
        return "ieee"
    setting = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
    if setting in ("ieee", "tf32"):
        return str(setting)
    try:
        return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    except RuntimeError:
        return "ieee"


def to_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """`tensors` in autocast's type where autocast is on for their device, else as they are.

    As in PyTorch's own autocast, float64 is left alone.
    """
    return tuple(t.to(arithmetic_dtype(t)) for t in tensors)


def arithmetic_dtype(x: Tensor) -> torch.dtype:
    """The type that a convolution or matrix product of `x` has: autocast's where that is on, else its own."""
    kind = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return x.dtype
    return torch.get_autocast_dtype(kind)


def without_autocast(launcher: Callable[..., Any], *args: Any) -> Any:
    """Call a launcher with autocast off: its tensors have their types, whatever is on where a backward runs."""
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return launcher(*args)
    return launcher(*args)


def float32_pair(number: float, dtype: torch.dtype) -> tuple[float, float]:
    """`number` as kernels on tensors of `dtype` take it: what float32 keeps of it and, for float64, what that drops."""
    high = float(torch.tensor(number, dtype=torch.float32)) if dtype == torch.float64 else number
    return high, number - high
