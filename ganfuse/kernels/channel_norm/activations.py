"""Derivatives of the activations, on maps, in plain PyTorch; `reference.activate` has their values."""

import torch
from torch import Tensor

_aten = torch.ops.aten


def times_slope(
    z: Tensor, activation: str, negative_slope: float, factor: Tensor, *, overwrite: bool = False
) -> Tensor:
    """act'(z)·factor; `overwrite`: in the memory of z."""
    out = {"grad_input": z} if overwrite else {}
    if activation == "none":
        return factor
    if activation == "silu":
        return _aten.silu_backward(factor, z, **out)  # type: ignore[no-any-return]
    slope = negative_slope if activation == "leaky_relu" else 0.0
    return _aten.leaky_relu_backward(factor, z, slope, False, **out)  # type: ignore[no-any-return]


def silu_bend(z: Tensor) -> Tensor:
    """silu''(z)."""
    s = torch.sigmoid(z)
    return s * (1 - s) * (2 + z * (1 - 2 * s))


def activate_(z: Tensor, activation: str, negative_slope: float) -> Tensor:
    """act(z), in place."""
    if activation == "relu":
        return z.relu_()
    if activation == "leaky_relu":
        return torch.nn.functional.leaky_relu(z, negative_slope, inplace=True)
    return torch.nn.functional.silu(z, inplace=True) if activation == "silu" else z
