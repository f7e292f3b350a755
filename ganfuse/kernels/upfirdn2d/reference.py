"""The definition in plain PyTorch: insert zeros, pad or crop, convolve, keep every n-th."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfuse.kernels.upfirdn2d.geometry import Factors, Padding


def upfirdn2d(
    x: Tensor, f: Tensor | None, up: Factors, down: Factors, padding: Padding, flip_filter: bool, gain: float
) -> Tensor:
    """As `ganfuse.kernels.upfirdn2d`, for factors and padding that are spelt out and without checks.

    Half types are filtered in float32: the filter is float32, and rounding it would be an error of its own.
    """
    batch, channels, height, width = x.shape
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    f = torch.ones(1, 1, device=x.device) if f is None else f
    weight = f.to(dtype) * gain if f.ndim == 2 else torch.outer(f.to(dtype), f.to(dtype)) * gain
    if not flip_filter:
        weight = weight.flip(0, 1)
    y = x.to(dtype)
    if up != (1, 1):
        y = F.pad(y.reshape(batch, channels, height, 1, width, 1), (0, up.x - 1, 0, 0, 0, up.y - 1))
        y = y.reshape(batch, channels, height * up.y, width * up.x)
    y = padded_or_cropped(y, *padding)
    # F.conv2d correlates.
    y = F.conv2d(y, weight.expand(channels, 1, *weight.shape), stride=(down.y, down.x), groups=channels)
    return y.to(x.dtype)


def padded_or_cropped(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """`x` with zeros around it; where numbers are negative, without so many rows or columns."""
    x = F.pad(x, [max(p, 0) for p in (left, right, top, bottom)])
    if min(left, right, top, bottom) >= 0:
        return x
    return x[:, :, max(-top, 0) : x.shape[2] - max(-bottom, 0), max(-left, 0) : x.shape[3] - max(-right, 0)]
