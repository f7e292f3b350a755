"""Batch norm of bfloat16 maps on CPUs by the statistics of this process's batch, in the passes of `NarrowMap`."""

import torch
from torch import Tensor

from ganfuse.kernels.autograd import Gradients, Needs, Tensors
from ganfuse.kernels.channel_norm.activations import activate_
from ganfuse.kernels.channel_norm.allocation import Attributes
from ganfuse.kernels.channel_norm.eager_narrow import NarrowMap, is_near


def forward(
    attributes: Attributes, x: Tensor, gain: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """(y, mean, variance, rstd), the last three (C,); None of maps too far from zero for these passes.

    Args:
        gain, bias: (C,) or (B, C), in any type.
    """
    mean, var = NarrowMap(x, per_sample=False).moments()
    rstd = (var + attributes.eps).rsqrt_()
    if not is_near(mean, rstd):
        return None
    slope, offset = _coefficients(gain, bias, mean, rstd)
    z = NarrowMap(x, per_sample=_per_sample(slope, offset)).affine(slope, offset)
    return activate_(z, attributes.activation, attributes.negative_slope), mean, var, rstd


def backward(
    attributes: Attributes, needs: Needs, grad: Tensor, inputs: Tensors, mean: Tensor, rstd: Tensor
) -> Gradients:
    """Gradients of x, and (C,) or (B, C) ones of gain and bias in float32, of maps that `is_near` holds of."""
    x, gain, bias = inputs[:3]
    slope, offset = _coefficients(gain, bias, mean, rstd)
    if not _per_sample(slope, offset):
        return NarrowMap(x, per_sample=False).batch_norm_backward(attributes, needs[:3], grad, gain, offset, mean, rstd)
    narrow = NarrowMap(x, per_sample=True)
    scaled, ones, against = narrow.scaled(attributes, grad, slope, offset, mean)
    on_x = None
    if needs[0]:
        count = x.numel() // x.shape[1]
        linear = (slope * against).sum(0).mul_(rstd).mul_(rstd).div_(-count)
        constant = (slope * ones).sum(0).div_(-count).addcmul_(linear, mean, value=-1)
        on_x = narrow.affine(linear, constant, scaled)
    return on_x, against * rstd, ones


def _coefficients(gain: Tensor | None, bias: Tensor | None, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """slope and offset of slope·x + offset, each (C,) or (B, C)."""
    slope = rstd if gain is None else gain.to(rstd.dtype) * rstd
    start = mean.new_zeros(()) if bias is None else bias.to(rstd.dtype)
    return slope, torch.addcmul(start, slope, mean, value=-1)


def _per_sample(*numbers: Tensor) -> bool:
    return any(v.ndim == 2 for v in numbers)
