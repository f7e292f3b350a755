"""A weight as a matrix, read where it lies.

Rows are one dimension of the weight, columns all the others. In memory a dense weight is (outer, rows, inner), and the
columns in memory order are (outer, inner): one formula for convolutions, transposed convolutions, both memory formats
and transposed matrices. Vectors v are stored in the order of a contiguous weight, which differs from memory order for
channels_last only.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """Sizes of a weight in memory, (outer, rows, inner); its columns in memory order are (outer, inner).

    Attributes:
        channels: what varies fastest in the columns, if columns in memory order are (..., channels) and in stored order
            (channels, ...): column m is stored at ``(m % channels) · (columns // channels) + m // channels``.
    """

    outer: int
    rows: int
    inner: int
    channels: int

    @property
    def columns(self) -> int:
        return self.outer * self.inner


def layout_of(weight: Tensor, dim: int) -> Layout | None:
    """How `weight`, with rows along `dim`, lies in memory; None if it cannot be read in place."""
    shape = weight.shape
    rows = shape[dim]
    columns = weight.numel() // rows if rows else 0
    if weight.is_contiguous():
        outer = 1
        for size in shape[:dim]:
            outer *= size
        return Layout(outer, rows, columns // outer if outer else 0, columns)
    if is_channels_last(weight):
        if dim == 0:
            return Layout(1, rows, columns, shape[1])
        if dim == 1:
            return Layout(columns, rows, 1, columns)
    if weight.dim() == 2 and weight.t().is_contiguous():
        return Layout(columns, rows, 1, columns) if dim == 0 else Layout(1, rows, columns, columns)
    return None


def readable(weight: Tensor, dim: int) -> tuple[Tensor, Layout]:
    """`weight`, or a contiguous copy where it cannot be read in place, and its layout."""
    layout = layout_of(weight, dim)
    if layout is None:
        weight = weight.contiguous()
        layout = layout_of(weight, dim)
        assert layout is not None
    return weight, layout


def is_channels_last(x: Tensor) -> bool:
    """Whether `x` is channels_last and not contiguous as well."""
    if x.dim() not in (4, 5) or x.is_contiguous():
        return False
    return x.is_contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)


def as_matrix(weight: Tensor, dim: int) -> tuple[Tensor, int]:
    """The weight as (rows, columns), without a copy if its layout allows, and `Layout.channels` of those columns."""
    if dim == 0 and is_channels_last(weight):
        return weight.movedim(1, -1).flatten(1), weight.shape[1]
    matrix = (weight if dim == 0 else weight.movedim(dim, 0)).flatten(1)
    return matrix, matrix.shape[1]


def to_stored_order(v: Tensor, channels: int) -> Tensor:
    """From the columns of a matrix to the order in which v is stored: that of a contiguous weight."""
    return v if channels == v.shape[0] else v.view(-1, channels).t().reshape(-1)


def to_matrix_order(v: Tensor, channels: int) -> Tensor:
    """The inverse of `to_stored_order`."""
    return v if channels == v.shape[0] else v.view(channels, -1).t().reshape(-1)
