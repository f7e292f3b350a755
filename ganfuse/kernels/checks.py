"""Argument checks shared by the ops: one sentence that names the argument, what came and what was expected."""

import torch
from torch import Tensor

from ganfuse.kernels.precision import SUPPORTED_DTYPES


def check_tensor(op: str, name: str, value: object, *, ndim: int | None = None, least_ndim: int | None = None) -> None:
    """Raise ValueError unless `value` is a floating tensor with the expected number of dimensions."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{op}: {name} must be a tensor, got {type(value).__name__}")
    if value.dtype not in SUPPORTED_DTYPES:
        known = ", ".join(str(d).removeprefix("torch.") for d in SUPPORTED_DTYPES)
        raise ValueError(f"{op}: {name} must be one of {known}, got {str(value.dtype).removeprefix('torch.')}")
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"{op}: {name} must have {ndim} dimensions, got shape {tuple(value.shape)}")
    if least_ndim is not None and value.ndim < least_ndim:
        raise ValueError(f"{op}: {name} must have at least {least_ndim} dimensions, got shape {tuple(value.shape)}")


def check_alike(op: str, **tensors: Tensor) -> None:
    """Raise ValueError unless all tensors share type and device."""
    (first_name, first), *rest = tensors.items()
    for name, tensor in rest:
        if tensor.dtype != first.dtype:
            raise ValueError(
                f"{op}: {name} must have the type of {first_name}, {_short(first.dtype)}, got {_short(tensor.dtype)}"
            )
        if tensor.device != first.device:
            raise ValueError(f"{op}: {name} must be on {first_name}'s device, {first.device}, got {tensor.device}")


def check_beside(op: str, name: str, tensor: object, x: Tensor) -> None:
    """Raise ValueError unless `tensor` is one, in x's type or float32, on x's device: a parameter of an op on x."""
    check_tensor(op, name, tensor)
    assert isinstance(tensor, Tensor)
    if tensor.dtype not in (x.dtype, torch.float32):
        raise ValueError(f"{op}: {name} must be float32 or have x's type, {x.dtype}, got {tensor.dtype}")
    if tensor.device != x.device:
        raise ValueError(f"{op}: {name} must be on x's device, {x.device}, got {tensor.device}")


def has_shape(tensor: Tensor, *shapes: tuple[int, ...]) -> bool:
    """Whether the tensor has one of the shapes.

    Ranks are compared first. Of tuples Python compares the first entries first, so (B, C) with (C,) would ask whether
    B = C, and an export whose batch is dynamic may not ask that.
    """
    return any(tensor.ndim == len(shape) and tensor.shape == shape for shape in shapes)


def check_size(op: str, what: str, got: int, expected: int, because: str) -> None:
    """Raise ValueError unless the size `what` is the expected one."""
    if got != expected:
        raise ValueError(f"{op}: {what} must be {expected} ({because}), got {got}")


def check_nonempty(op: str, name: str, tensor: Tensor, *, first_dim: int = 1) -> None:
    """Raise ValueError if any dimension from `first_dim` on is 0 (an empty batch is fine)."""
    if 0 in tensor.shape[first_dim:]:
        raise ValueError(f"{op}: {name} must have no empty dimension but the batch, got shape {tuple(tensor.shape)}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
