"""The definition, in plain PyTorch; differentiable to any order."""

from typing import Any

import torch
from torch import Tensor

from ganfuse.kernels.channel_norm.allocation import Attributes, accumulator
from ganfuse.kernels.channel_norm.processes import all_reduce_sum, resolve

Extent = tuple[int, ...]


def channel_norm(
    attributes: Attributes,
    x: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    rho: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    noise: Tensor | None = None,
    noise_strength: Tensor | None = None,
    prologue_bias: Tensor | None = None,
) -> Tensor:
    """``act(gain · normalised(x) + bias + noise · strength)``, in float32 (float64 for float64) throughout.

    With a prologue, x is ``prologue(x + noise · strength + prologue_bias)`` first, and no noise comes after.
    """
    kind, dtype = attributes.kind, accumulator(x.dtype)
    wide = x.to(dtype)
    if attributes.prologue:
        wide = activate(
            _noised(wide, noise, noise_strength, prologue_bias), attributes.prologue, attributes.prologue_slope
        )
    if kind == "given":
        assert mean is not None
        assert var is not None
        scale = torch.rsqrt(var.detach().to(dtype) + attributes.eps)
        y = (wide - _per_channel(mean.detach(), dtype)) * _per_channel(scale, dtype)
    elif kind == "batch":
        y = _standardised(attributes, wide, (0, 2, 3))
    elif kind == "row":
        y = _standardised(attributes, wide, (2, 3))
    else:
        grouped = wide.reshape(wide.shape[0], attributes.groups, -1, *wide.shape[2:])
        y = _standardised(attributes, grouped, (2, 3, 4)).reshape(wide.shape)
        if kind == "mix":
            assert rho is not None
            share = _per_channel(rho, dtype)
            y = share * _standardised(attributes, wide, (2, 3)) + (1 - share) * y
    if gain is not None:
        y = y * _per_channel(gain, dtype)
    if bias is not None:
        y = y + _per_channel(bias, dtype)
    if not attributes.prologue:
        y = _noised(y, noise, noise_strength, None)
    return activate(y, attributes.activation, attributes.negative_slope).to(x.dtype)


def _noised(x: Tensor, noise: Tensor | None, strength: Tensor | None, bias: Tensor | None) -> Tensor:
    if noise is not None:
        assert strength is not None
        x = x + noise.to(x.dtype) * _per_channel(strength, x.dtype)
    return x if bias is None else x + _per_channel(bias, x.dtype)


def _per_channel(v: Tensor, dtype: torch.dtype) -> Tensor:
    return v.to(dtype)[..., None, None]


def _standardised(attributes: Attributes, x: Tensor, dims: Extent) -> Tensor:
    count: Any = 1
    for dim in dims:
        count = count * x.shape[dim]
    group = resolve(attributes.process_group)
    if group is None:
        centred = x - x.mean(dims, keepdim=True)
        squares = centred.square().sum(dims, keepdim=True)
    else:
        count = all_reduce_sum(torch.tensor(float(count), dtype=x.dtype, device=x.device), group)
        centred = x - all_reduce_sum(x.sum(dims, keepdim=True), group) / count
        squares = all_reduce_sum(centred.square().sum(dims, keepdim=True), group)
    if attributes.unbiased:
        count = count - 1 if group is not None else max(count - 1, 1)
    return centred * torch.rsqrt(squares / count + attributes.eps)


def activate(x: Tensor, activation: str, negative_slope: float) -> Tensor:
    """relu and leaky_relu have slope 1 above 0 and theirs at and below, as in PyTorch."""
    if activation == "relu":
        return torch.relu(x)
    if activation == "leaky_relu":
        return torch.nn.functional.leaky_relu(x, negative_slope)
    if activation == "silu":
        return torch.nn.functional.silu(x)
    return x
