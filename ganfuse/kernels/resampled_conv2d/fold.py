"""The 4×4 kernels of stride 2 that equal a 3×3 kernel and its resampling: 3×3 summed over the shifts of a 2×2 box.

With the box S[n] = w[n] + w[n − 1] (each axis alike, w 0 outside 0..2):

* the mean of the outputs 2i and 2i + 1 of Σ_k w[k]·x[r + k − 1] is Σ_n S[n]/2 · x[2i + n − 1]: a 4-tap convolution of
  stride 2 and padding 1;
* in Σ_k w[k]·up[r + k − 1], where up[r] = x[⌊r/2⌋], x[i] has the factor w[2i + 1 − r] + w[2i + 2 − r]: a transposed
  4-tap convolution of stride 2 and padding 1 with the kernel S[3 − m]. Where ``up`` is padded with zeros, no x is left
  out and none added, so the borders are exact, too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfuse.kernels.checks import check_tensor
from ganfuse.kernels.layout import is_channels_last
from ganfuse.kernels.precision import without_autocast
from ganfuse.kernels.resampled_conv2d import fold_product


def fold_downsample_weight(weight: Tensor) -> Tensor:
    """The kernel of stride 2 and padding 1 that equals `weight` and a 2×2 mean after it.

    For weights that many calls of `conv2d_downsample` share: what it gets in place of `weight` is not folded again.
    Differentiable to any order.

    Args:
        weight: (Cout, Cin, 3, 3).

    Returns:
        (Cout, Cin, 4, 4), in the weight's type and layout.

    Raises:
        ValueError: for any other shape.
    """
    _check("fold_downsample_weight", weight)
    folded: Tensor = without_autocast(folded_for_down, weight, weight.dtype)
    return folded


def fold_upsample_weight(weight: Tensor, *, channels_last: bool | None = None) -> Tensor:
    """The kernel of a transposed convolution of stride 2 and padding 1 that equals nearest ×2 and `weight` after it.

    For weights that many calls of `upsample_conv2d` share: what it gets in place of `weight` is not folded again.
    Differentiable to any order.

    Args:
        weight: (Cout, Cin, 3, 3).
        channels_last: layout of the result; None: the weight's.

    Returns:
        (Cin, Cout, 4, 4), as `torch.nn.functional.conv_transpose2d` takes it, in the weight's type.

    Raises:
        ValueError: for any other shape.
    """
    _check("fold_upsample_weight", weight)
    channels_last = is_channels_last(weight) if channels_last is None else channels_last
    folded: Tensor = without_autocast(folded_for_up, weight, channels_last, weight.dtype)
    return folded


def _check(op: str, weight: Tensor) -> None:
    check_tensor(op, "weight", weight, ndim=4)
    if weight.shape[2:] != (3, 3):
        raise ValueError(f"{op}: weight must have shape (Cout, Cin, 3, 3), got {tuple(weight.shape)}")


def folded_for_down(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """`fold_downsample_weight` without checks, in a type of its own: the sums are rounded once."""
    if weight.is_cpu:
        return fold_product.folded(weight, False, is_channels_last(weight), dtype)
    return _pooled(weight).to(dtype)


def folded_for_up(weight: Tensor, channels_last: bool, dtype: torch.dtype) -> Tensor:
    """`fold_upsample_weight` likewise."""
    if weight.is_cpu:
        return fold_product.folded(weight, True, channels_last, dtype)
    return _pooled_and_flipped(weight, channels_last).to(dtype)


def _pooled(weight: Tensor) -> Tensor:
    return F.avg_pool2d(weight, 2, stride=1, padding=1)


def _pooled_and_flipped(weight: Tensor, channels_last: bool) -> Tensor:
    # Transposed while it has 9 taps, not 16: convolutions are half as fast with a weight that lies otherwise.
    format = torch.channels_last if channels_last else torch.contiguous_format
    weight = weight.transpose(0, 1).contiguous(memory_format=format)
    return F.avg_pool2d(weight.flip(2, 3), 2, stride=1, padding=1, divisor_override=1)
