"""Reading feature maps and token lists as (batch, heads, tokens, channels) in place, whichever axis is contiguous.

Two forms come in: ``"map"``, (B, C, H, W) with H·W tokens, and ``"tokens"``, (..., N, C) as PyTorch's attention has
it. In either, the channels or the tokens lie contiguous in memory, and the other axis has a *pitch*, which is larger
than the packed one where the tensor is a slice of a wider one.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class TokenView(NamedTuple):
    """A tensor with its strides (in elements) over batch, heads, and the axis that is not contiguous."""

    tensor: Tensor
    stride_batch: int
    stride_head: int
    pitch: int

    @staticmethod
    def alignment_of(strides: tuple[int, int, int]) -> int:
        """The largest power of two up to 16 that divides every stride."""
        return math.gcd(16, *strides)


class Shape(NamedTuple):
    """Sizes of a tensor read as tokens."""

    batch: int
    heads: int
    tokens: int
    channels: int


def shape_of(x: Tensor, form: str) -> Shape:
    """Sizes of `x` as (batch, heads, tokens, channels)."""
    if form == "map":
        batch, channels, height, width = x.shape
        return Shape(batch, 1, height * width, channels)
    *lead, tokens, channels = x.shape
    heads = lead[-1] if lead else 1
    return Shape(math.prod(lead[:-1]), heads, tokens, channels)


def _strides(x: Tensor, form: str) -> tuple[int, int, int, int] | None:
    """Strides over batch, heads, tokens and channels; None where no single stride steps from token to token."""
    if form == "map":
        batch, channels, row, column = x.stride()
        height, width = x.shape[2:]
        if height > 1 and width > 1 and row != width * column:
            return None
        return batch, 0, column if width > 1 else row, channels
    *lead, tokens, channels = x.stride()
    heads = lead.pop() if lead else 0
    # The stride of a dimension of size 1 means nothing, and must not be read.
    outer = [(size, stride) for size, stride in zip(x.shape, lead) if size != 1]
    if any(stride != inner_size * inner_stride for (_, stride), (inner_size, inner_stride) in pairwise(outer)):
        return None
    return outer[-1][1] if outer else 0, heads, tokens, channels


def channels_innermost(x: Tensor, form: str) -> bool | None:
    """True where channels are contiguous (channels_last), False where tokens are (NCHW), None where neither."""
    strides = _strides(x, form)
    if strides is None:
        return None
    shape = shape_of(x, form)
    tokens_contiguous = shape.tokens == 1 or strides[2] == 1
    channels_contiguous = shape.channels == 1 or strides[3] == 1
    if tokens_contiguous and (form == "map" or not channels_contiguous):
        return False
    return True if channels_contiguous else None


def common_layout(form: str, *tensors: Tensor) -> bool:
    """Whether an op on `tensors` works with channels innermost: the layout of the first that has one.

    A single token or channel has every layout, so it is asked last.
    """
    for x in sorted(tensors, key=lambda x: 1 in shape_of(x, form)[2:]):
        innermost = channels_innermost(x, form)
        if innermost is not None:
            return innermost
    return form == "tokens"


def view(x: Tensor, form: str, channels_last: bool) -> TokenView:
    """`x` for a kernel of that layout: in place if it has it, else through one copy."""
    shape, strides = shape_of(x, form), _strides(x, form)
    unit = (shape.channels == 1 or strides[3] == 1) if channels_last and strides else False
    if not channels_last and strides:
        unit = shape.tokens == 1 or strides[2] == 1
    if not unit:
        copy = empty(x.shape, form, channels_last, x)
        copy.copy_(x)
        x, strides = copy, _strides(copy, form)
    assert strides is not None
    return TokenView(x, strides[0], strides[1], strides[2] if channels_last else strides[3])


def empty(shape: tuple[int, ...] | torch.Size, form: str, channels_last: bool, like: Tensor) -> Tensor:
    """An uninitialised tensor of `shape` in that layout, with the type and device of `like`; never a view."""
    *lead, tokens, channels = shape
    if form == "map":
        format = torch.channels_last if channels_last else torch.contiguous_format
        return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=format)
    if channels_last:
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    strides, step = [1, tokens], tokens * channels
    for size in reversed(lead):
        strides.insert(0, step)
        step *= size
    return torch.empty_strided(shape, strides, dtype=like.dtype, device=like.device)
