"""Bilinear sampling of images at given places, differentiable with respect to the images any number of times.

`F.grid_sample` is so only in recent versions of PyTorch (pytorch#34704). It is linear in the images, so its first
derivative is a linear map, the adjoint, and the adjoint of that is the sampling again: two Functions that are each
other's backward.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# The numbers that ATen has for bilinear interpolation and for padding by reflection at the outermost pixels' edges.
_BILINEAR, _REFLECTION = 0, 2


def resample(images: Tensor, grid: Tensor) -> Tensor:
    """``images`` at the places of ``grid``, outside of which they are mirrored without end.

    Args:
        images: ``(B, C, H, W)``, float32 or float64.
        grid: ``(B, H2, W2, 2)`` of the same type: x and y, from -1 at the image's left (upper) edge to 1 at its right
            (lower) one. It gets no gradient.

    Returns:
        ``(B, C, H2, W2)``.
    """
    return _Sample.apply(images, grid.detach())  # type: ignore[no-any-return, no-untyped-call]


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.size = images.shape
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _Spread.apply(grad, grid, ctx.size), None  # type: ignore[no-untyped-call]


class _Spread(torch.autograd.Function):
    """The adjoint: adds each value to the pixels that it would have been interpolated from."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, grid: Tensor, size: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        # Only the size of the images matters to the adjoint.
        images = values.new_zeros(()).expand(size)
        result: Tensor = torch.ops.aten.grid_sampler_2d_backward(
            values.contiguous(), images, grid, _BILINEAR, _REFLECTION, False, [True, False]
        )[0]
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Sample.apply(grad, grid), None, None  # type: ignore[no-untyped-call]
