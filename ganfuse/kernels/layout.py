"""Reading (B, C, H, W) feature maps in place: NCHW or channels_last, slices of wider maps included.

In either layout one axis is contiguous, the H·W positions (NCHW) or the channels (channels_last); the other has a
*pitch*, larger than the packed one where the map is a slice of a wider one.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class MapView(NamedTuple):
    """A map that a kernel can read: strides in elements over the batch and over the axis that is not contiguous."""

    tensor: Tensor
    stride_batch: int
    pitch: int


def _strides(x: Tensor) -> tuple[int, int, int] | None:
    """Strides over batch, channels and positions; None where no single stride steps from position to position."""
    batch, channels, row, column = x.stride()
    height, width = x.shape[2:]
    if height > 1 and width > 1 and row != width * column:
        return None
    return batch, channels, column if width > 1 else row


def is_channels_last(x: Tensor) -> bool:
    """Whether an op on the map `x` works with channels innermost: in the layout it has, NCHW where it has neither.

    Maps of one position have their channels innermost if these are contiguous, maps of one channel never.
    """
    strides = _strides(x)
    if strides is None or x.shape[1] == 1:
        return False
    positions = x.shape[2] * x.shape[3]
    return strides[1] == 1 and (positions == 1 or strides[2] != 1)


def view(x: Tensor, channels_last: bool) -> MapView:
    """`x` for a kernel of that layout: in place if it has it, else (expanded, permuted, cropped) through one copy."""
    strides = _strides(x)
    positions, channels = x.shape[2] * x.shape[3], x.shape[1]
    if strides is None or not (
        (channels == 1 or strides[1] == 1) if channels_last else positions == 1 or strides[2] == 1
    ):
        x = empty(x.shape, channels_last, x.dtype, x.device).copy_(x)
        strides = _strides(x)
        assert strides is not None
    # The stride of an axis of length 1 means nothing, and must not spoil the alignment of the others.
    batch = strides[0] if x.shape[0] > 1 else channels * positions
    if channels_last:
        return MapView(x, batch, strides[2] if positions > 1 else channels)
    return MapView(x, batch, strides[1] if channels > 1 else positions)


def empty(shape: tuple[int, ...] | torch.Size, channels_last: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised map in that layout, never a view."""
    format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=device, memory_format=format)


def alignment_unit(*sizes: int) -> int:
    """The largest power of two up to 16 that divides every size.

    Triton knows of an integer only whether 16 divides it; kernels take sizes and strides divided by this unit, and
    multiply by it as a constant, so that 8, 24 or 40 channels are still read 16 bytes at a time.
    """
    return math.gcd(16, *sizes)
