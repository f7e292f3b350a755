"""The fast form in plain PyTorch for CPUs: depthwise convolutions that multiply none of the inserted zeros.

Strides take the place of what is dropped, transposed convolutions of what is inserted. Half types are filtered in
float32, as in the definition.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfuse.kernels.upfirdn2d.geometry import Sampling
from ganfuse.kernels.upfirdn2d.reference import padded_or_cropped

# From so many taps on, a filter of one dimension runs along the axes in turn.
_TWO_PASSES = 8


def upfirdn2d(sampling: Sampling, x: Tensor, f: Tensor | None) -> Tensor:
    """As the definition, for CPU tensors; nothing here is differentiated."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    format = torch.channels_last if sampling.channels_last else torch.contiguous_format
    y = x.to(dtype).contiguous(memory_format=format)
    taps = torch.ones(1, 1, dtype=dtype) if f is None else f.to(dtype)
    if not sampling.flip_filter:
        taps = taps.flip(tuple(range(taps.ndim)))
    if taps.ndim == 2:
        y = _filtered(sampling, y, taps * sampling.gain)
    elif len(taps) < _TWO_PASSES:
        y = _filtered(sampling, y, torch.outer(taps * sampling.gain, taps))
    else:
        along_x, along_y = sampling.passes(x)
        y = _filtered(along_x, y, taps[None] * sampling.gain)
        y = _filtered(along_y, y, taps[:, None])
    return y.to(x.dtype).contiguous(memory_format=format)


def _filtered(sampling: Sampling, x: Tensor, weight: Tensor) -> Tensor:
    """`x` correlated with `weight` of two dimensions."""
    per_channel = weight.expand(x.shape[1], 1, *weight.shape)
    if (sampling.up_x, sampling.up_y) == (1, 1):
        return _convolved(sampling, x, per_channel)
    return _transposed(sampling, x, per_channel)


def _convolved(sampling: Sampling, x: Tensor, weight: Tensor) -> Tensor:
    rows, columns = weight.shape[2:]
    left, top = sampling.pad_x, sampling.pad_y
    right = (sampling.out_x - 1) * sampling.down_x + columns - left - x.shape[3]
    bottom = (sampling.out_y - 1) * sampling.down_y + rows - top - x.shape[2]
    stride = (sampling.down_y, sampling.down_x)
    # A convolution pads both sides alike, and what it has too much on the right may be less than a stride.
    if 0 <= left - right < sampling.down_x and 0 <= top - bottom < sampling.down_y and min(left, top) >= 0:
        return F.conv2d(x, weight, stride=stride, padding=(top, left), groups=x.shape[1])
    return F.conv2d(padded_or_cropped(x, left, right, top, bottom), weight, stride=stride, groups=x.shape[1])


def _transposed(sampling: Sampling, x: Tensor, weight: Tensor) -> Tensor:
    rows, columns = weight.shape[2:]
    # Of what all pixels spread their taps over, so much is not wanted on each side (or, negative, is missing).
    left, top = columns - 1 - sampling.pad_x, rows - 1 - sampling.pad_y
    right = (x.shape[3] - 1) * sampling.up_x + columns - left - (sampling.out_x - 1) * sampling.down_x - 1
    bottom = (x.shape[2] - 1) * sampling.up_y + rows - top - (sampling.out_y - 1) * sampling.down_y - 1
    more = (top - bottom, left - right)
    spread, channels, stride = weight.flip(2, 3), x.shape[1], (sampling.up_y, sampling.up_x)
    if min(left, top) >= 0 and 0 <= more[0] < sampling.up_y and 0 <= more[1] < sampling.up_x:
        y = F.conv_transpose2d(x, spread, None, stride, (top, left), more, channels)
    else:
        y = F.conv_transpose2d(x, spread, stride=stride, groups=channels)
        y = padded_or_cropped(y, -left, -right, -top, -bottom)
    if (sampling.down_x, sampling.down_y) == (1, 1):
        return y
    return y[:, :, :: sampling.down_y, :: sampling.down_x]


def unsupported(x: Tensor) -> str | None:
    """Why this form does not take the call; None if it does."""
    return None if x.device.type == "cpu" else "the eager form is written for CPUs"
