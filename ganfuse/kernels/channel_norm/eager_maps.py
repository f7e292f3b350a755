"""What passes over maps are made of on CPUs, in the forms that are fastest there.

What decides between forms is whether PyTorch vectorises them: a sum that begins from a number per row does not where
positions are innermost, products over positions do not where channels are. The backward of PyTorch's own batch norm,
which can be asked for its two sums alone, does both sums of a pass at once in either layout.
"""

import math

import torch
from torch import Tensor

from ganfuse.kernels.channel_norm.allocation import accumulator
from ganfuse.kernels.layout import empty

_aten = torch.ops.aten


def per_row(v: Tensor) -> Tensor:
    """(B, C) or (C,) numbers, to meet maps."""
    return v.view(*v.shape, 1, 1)


def is_near(mean: Tensor, rstd: Tensor, most: float) -> bool:
    """Whether every mean is at most `most` standard deviations from zero."""
    return float(torch.linalg.vector_norm(mean * rstd, math.inf)) <= most


def wide(x: Tensor, channels_last: bool) -> Tensor:
    """`x` dense, in its layout and in the accumulator's type."""
    format = torch.channels_last if channels_last else torch.contiguous_format
    return x.to(accumulator(x.dtype)).contiguous(memory_format=format)


def dot(a: Tensor, b: Tensor, channels_last: bool) -> Tensor:
    """(B, C) sums of a·b over the positions."""
    batch, channels = a.shape[:2]
    if channels_last or a.numel() == 0:
        return (a * b).sum((2, 3))
    flat = (batch * channels, 1, -1)
    return torch.bmm(a.reshape(flat), b.reshape(flat).transpose(1, 2)).view(batch, channels)


# Positions of a sample from which a call for each sample costs less than a product to be summed; and how many are
# summed in one go where channels are innermost, for there PyTorch adds one after the other, and errors grow with that.
_ENOUGH_POSITIONS = 512
_MOST_POSITIONS = 1024


def channel_sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(C,) sums of a, and of a·b, of maps that have elements."""
    zeros, ones = b.new_zeros(b.shape[1]), b.new_ones(b.shape[1])
    _, against, total = _aten.native_batch_norm_backward(
        a, b, ones, None, None, zeros, ones, True, 0.0, [False, True, True]
    )
    return total, against


def row_sums(a: Tensor, b: Tensor, channels_last: bool) -> tuple[Tensor, Tensor]:
    """(B, C) sums of a, and of a·b, over the positions."""
    batch, channels = a.shape[:2]
    if a.numel() == 0 or (channels_last and a[0, 0].numel() < _ENOUGH_POSITIONS):
        return a.sum((2, 3)), dot(a, b, channels_last)
    if channels_last:
        return _in_pieces(a, b)
    rows = (1, batch * channels, *a.shape[2:])
    total, against = channel_sums(a.view(rows), b.view(rows))
    return total.view(batch, channels), against.view(batch, channels)


def _in_pieces(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """`row_sums` of channels_last maps, by calls for a part of a sample each."""
    batch, channels, height, width = a.shape
    positions = height * width
    pieces = -(-positions // _MOST_POSITIONS)
    size = -(-positions // pieces)
    sums = []
    for begin in range(0, batch * positions, positions):
        for start in range(begin, begin + positions, size):
            shape = (1, channels, min(size, begin + positions - start), 1)
            strides = (shape[2] * channels, 1, channels, channels)
            at = start * channels
            sums.append(channel_sums(*(m.as_strided(shape, strides, m.storage_offset() + at) for m in (a, b))))
    total, against = (torch.stack(parts).view(batch, pieces, channels) for parts in zip(*sums))
    return (total[:, 0], against[:, 0]) if pieces == 1 else (total.sum(1), against.sum(1))


def affine_map(d: Tensor, slope: Tensor, offset: Tensor, channels_last: bool, *, inplace: bool = False) -> Tensor:
    """slope·d + offset, for (B, C) or (C,) slope and offset."""
    if channels_last:
        return torch.addcmul(per_row(offset), d, per_row(slope), out=d if inplace else None)
    z = d.mul_(per_row(slope)) if inplace else d * per_row(slope)
    return z.add_(per_row(offset))


def centred(x: Tensor, centre: Tensor, channels_last: bool) -> Tensor:
    """x − centre, for (B, C) or (C,) centres in the accumulator's type: dense, in memory of its own."""
    result = empty(x.shape, channels_last, centre.dtype, x.device)
    return torch.sub(x, per_row(centre), out=result)
