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


def _matrix(scale: float, flipped: bool, dtype: torch.dtype) -> Tensor:
    """(16, 9): from the taps of the 3×3 kernel to those of the 4×4 one."""
    # This module may be imported first inside of inference_mode, whose tensors no backward takes, and under a default
    # device.
    with torch.inference_mode(False):
        box = torch.zeros(4, 3, dtype=dtype, device="cpu")
        for n in range(3):
            box[n, n] = box[n + 1, n] = 1.0
        matrix = torch.kron(box, box) * scale
        return matrix.flip(0) if flipped else matrix


_DOWN = {dtype: _matrix(0.25, False, dtype) for dtype in (torch.float32, torch.float64)}
_UP = {dtype: _matrix(1.0, True, dtype) for dtype in (torch.float32, torch.float64)}


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
    folded: Tensor = without_autocast(_down, weight)
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
    folded: Tensor = without_autocast(_up, weight, is_channels_last(weight) if channels_last is None else channels_last)
    return folded


def _check(op: str, weight: Tensor) -> None:
    check_tensor(op, "weight", weight, ndim=4)
    if weight.shape[2:] != (3, 3):
        raise ValueError(f"{op}: weight must have shape (Cout, Cin, 3, 3), got {tuple(weight.shape)}")


def _down(weight: Tensor) -> Tensor:
    if weight.device.type == "cpu":
        return _by_product(weight, _DOWN)
    return _by_pooling(weight, transposed=False)


def _up(weight: Tensor, channels_last: bool) -> Tensor:
    # Transposed while it has 9 taps, not 16: convolutions are half as fast with a weight that lies otherwise.
    format = torch.channels_last if channels_last else torch.contiguous_format
    weight = weight.transpose(0, 1).contiguous(memory_format=format)
    if weight.device.type == "cpu":
        return _by_product(weight, _UP)
    return _by_pooling(weight, transposed=True)


def _by_pooling(weight: Tensor, *, transposed: bool) -> Tensor:
    if transposed:
        return F.avg_pool2d(weight.flip(2, 3), 2, stride=1, padding=1, divisor_override=1)
    return F.avg_pool2d(weight, 2, stride=1, padding=1)


def _by_product(weight: Tensor, matrices: dict[torch.dtype, Tensor]) -> Tensor:
    """By a matrix product, on CPUs up to ten times as fast as pooling (and flipping) NCHW weights of 3×3 pixels.

    Half types are summed in float32: their products are slow on CPUs that have no instructions for them. (On a GPU it
    would round float32 weights to tf32 wherever products may.)
    """
    wide = weight if weight.dtype in matrices else weight.float()
    matrix = matrices[wide.dtype]
    first, second = weight.shape[:2]
    if is_channels_last(weight):
        taps = wide.permute(0, 2, 3, 1).reshape(first, 9, second)
        folded = torch.bmm(matrix.expand(first, 16, 9), taps).view(first, 4, 4, second).permute(0, 3, 1, 2)
    else:
        folded = (wide.reshape(first * second, 9) @ matrix.t()).view(first, second, 4, 4)
    return folded.to(weight.dtype)
