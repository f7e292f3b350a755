"""Folding by matrix products, on CPUs up to ten times as fast as by pooling (and flipping) maps of 3×3 pixels.

Half types are summed in float32: their products are slow on CPUs that have no instructions for them. (On a GPU a
product would round float32 weights to tf32 wherever products may.)

What costs is not the arithmetic but to bring weights into the order that convolutions are fast with. A channels_last
weight is some taps between two channel axes; PyTorch swaps those several times as fast if it is shown a plain matrix.
"""

from typing import Any

import torch
from torch import Tensor

from ganfuse.kernels.autograd import PositionalFunction
from ganfuse.kernels.layout import is_channels_last
from ganfuse.kernels.weight_gradients import functorch_is_active

# Numbers of a kernel that are summed at a time, so that sums in float32 of half types stay in a cache.
_PART = 2**18


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


_MATRICES = {
    (transposed, dtype): _matrix(1.0 if transposed else 0.25, transposed, dtype)
    for transposed in (False, True)
    for dtype in (torch.float32, torch.float64)
}


def folded(weight: Tensor, transposed: bool, channels_last: bool, dtype: torch.dtype) -> Tensor:
    """The 4×4 kernels of a 3×3 weight in the layout and type asked for.

    Args:
        weight: (Cout, Cin, 3, 3), on a CPU.
        transposed: the result is (Cin, Cout, 4, 4), for a transposed convolution; else (Cout, Cin, 4, 4).
    """
    if functorch_is_active() or torch.compiler.is_compiling() or not channels_last:
        return _by_definition(weight, transposed, channels_last).to(dtype)
    if not (transposed or is_channels_last(weight)):
        weight = weight.contiguous(memory_format=torch.channels_last)
    result: Tensor = _Fold.apply(weight, transposed, dtype)
    return result


def _by_definition(weight: Tensor, transposed: bool, channels_last: bool) -> Tensor:
    wide = weight if (transposed, weight.dtype) in _MATRICES else weight.float()
    matrix = _MATRICES[transposed, wide.dtype]
    wide = wide.transpose(0, 1) if transposed else wide
    first, second = wide.shape[:2]
    if channels_last:
        taps = wide.permute(0, 2, 3, 1).reshape(first, 9, second)
        return torch.bmm(matrix.expand(first, 16, 9), taps).view(first, 4, 4, second).permute(0, 3, 1, 2)
    return (wide.reshape(first * second, 9) @ matrix.t()).view(first, second, 4, 4)


class _Fold(PositionalFunction):
    """(weight) → its kernels, channels_last. Linear, so that `_Unfold` is its backward, and it is that one's."""

    @staticmethod
    def forward(weight: Tensor, transposed: bool, dtype: torch.dtype) -> Tensor:
        first, second = (weight.shape[1], weight.shape[0]) if transposed else weight.shape[:2]
        result = weight.new_empty(first, 16, second, dtype=dtype)
        _multiply(_matrix_for(weight, transposed), _taps_inside(weight, transposed), result)
        return result.view(first, 4, 4, second).permute(0, 3, 1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        weight, ctx.transposed, _ = inputs
        ctx.channels_last = is_channels_last(weight)
        ctx.dtype = weight.dtype

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Unfold.apply(grads[0], ctx.transposed, ctx.channels_last, ctx.dtype), None, None


class _Unfold(PositionalFunction):
    """The adjoint of `_Fold`: from gradients of kernels to that of a weight of either layout."""

    @staticmethod
    def forward(grad: Tensor, transposed: bool, channels_last: bool, dtype: torch.dtype) -> Tensor:
        first, second = grad.shape[:2]
        sums = grad.permute(0, 2, 3, 1).reshape(first, 16, second)
        matrix = _matrix_for(grad, transposed).t()
        if not transposed:
            result = grad.new_empty(first, 9, second, dtype=dtype)
            _multiply(matrix, sums, result)
        elif channels_last:
            result = grad.new_empty(second, 9, first, dtype=dtype)
            _multiply(matrix, sums, result.permute(2, 1, 0))
        else:
            result = grad.new_empty(second, first, 9, dtype=dtype)
            _multiply(matrix, sums, result.permute(1, 2, 0))
            return result.view(second, first, 3, 3)
        return result.view(result.shape[0], 3, 3, result.shape[2]).permute(0, 3, 1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, ctx.transposed, _, _ = inputs
        ctx.dtype = grad.dtype

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return _Fold.apply(grads[0], ctx.transposed, ctx.dtype), None, None, None


def _matrix_for(x: Tensor, transposed: bool) -> Tensor:
    return _MATRICES[transposed, torch.float64 if x.dtype == torch.float64 else torch.float32]


def _taps_inside(weight: Tensor, transposed: bool) -> Tensor:
    """The weight as (first, 9, second), where `second` varies fastest in memory."""
    outputs, inputs = weight.shape[:2]
    if not transposed:
        return weight.permute(0, 2, 3, 1).reshape(outputs, 9, inputs)
    if is_channels_last(weight):
        rows = weight.permute(0, 2, 3, 1).reshape(outputs, 9 * inputs)
        return rows.t().contiguous().view(9, inputs, outputs).transpose(0, 1)
    return weight.reshape(outputs, inputs * 9).t().contiguous().view(inputs, 9, outputs)


def _multiply(matrix: Tensor, x: Tensor, result: Tensor) -> None:
    """result = matrix · x for every item of a batch, rounded to the result's type once."""
    count = x.shape[0]
    if x.dtype == matrix.dtype == result.dtype and result.is_contiguous():
        torch.bmm(matrix.expand(count, *matrix.shape), x, out=result)
        return
    size = max(1, _PART // max(1, x.shape[1] * x.shape[2]))
    for start in range(0, count, size):
        part = x[start : start + size].to(matrix.dtype)
        result[start : start + size].copy_(torch.bmm(matrix.expand(part.shape[0], *matrix.shape), part))
