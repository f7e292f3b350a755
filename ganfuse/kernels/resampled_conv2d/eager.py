"""The low-resolution forms: 16 multiply-adds in place of 36 for a 3×3 kernel, one in place of four for 1×1.

Native convolutions, so that they are differentiable to any order, and leave out weight gradients that nobody wants.
"""

import torch.nn.functional as F
from torch import Tensor

from ganfuse.kernels.layout import is_channels_last
from ganfuse.kernels.precision import arithmetic_dtype, without_autocast
from ganfuse.kernels.resampled_conv2d.fold import folded_for_down, folded_for_up


def upsample_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, padding_mode: str) -> Tensor:
    """A transposed convolution of stride 2, or a 1×1 convolution and the upsampling behind it."""
    if weight.shape[-1] == 1:
        return F.interpolate(F.conv2d(x, weight, bias), scale_factor=2.0, mode="nearest")
    if weight.shape[-1] == 3:
        channels_last = is_channels_last(x) or is_channels_last(weight)
        weight = without_autocast(folded_for_up, weight, channels_last, arithmetic_dtype(weight))
    padding = 1
    if padding_mode == "reflect":
        # Rows 0 and 1 are both pixel 0, so what reflection puts before row 0 is that pixel. The two rows that the new
        # pixels would make, with the one that belongs to none, are left out.
        x, padding = F.pad(x, (1, 1, 1, 1), mode="replicate"), 3
    return F.conv_transpose2d(x, weight, bias, stride=2, padding=padding)


def conv2d_downsample(x: Tensor, weight: Tensor, bias: Tensor | None, padding_mode: str) -> Tensor:
    """A convolution of stride 2, or the mean and a 1×1 convolution behind it."""
    if weight.shape[-1] == 1:
        return F.conv2d(F.avg_pool2d(x, 2), weight, bias)
    if weight.shape[-1] == 3:
        weight = without_autocast(folded_for_down, weight, arithmetic_dtype(weight))
    if padding_mode == "reflect":
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight, bias, stride=2)
    return F.conv2d(x, weight, bias, stride=2, padding=1)
