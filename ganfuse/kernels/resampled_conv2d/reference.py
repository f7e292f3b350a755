"""The definitions: resampling and convolution one after the other, both at the high resolution."""

import torch.nn.functional as F
from torch import Tensor


def upsample_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, padding_mode: str) -> Tensor:
    """Each pixel twice in both directions, then the convolution, which keeps the size."""
    return _same_conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding_mode)


def conv2d_downsample(x: Tensor, weight: Tensor, bias: Tensor | None, padding_mode: str) -> Tensor:
    """The convolution, which keeps the size, then the mean of each 2×2 square; an odd last row or column falls off."""
    return F.avg_pool2d(_same_conv2d(x, weight, bias, padding_mode), 2)


def _same_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, padding_mode: str) -> Tensor:
    around = weight.shape[-1] // 2
    if around and padding_mode == "reflect":
        return F.conv2d(F.pad(x, (around,) * 4, mode="reflect"), weight, bias)
    return F.conv2d(x, weight, bias, padding=around)
