"""The attributes of a call, the two layouts, and the shapes, types and layouts of all results."""

from typing import NamedTuple

import torch
from torch import Tensor

from ganfuse.kernels.autograd import Gradients, Needs, Tensors
from ganfuse.kernels.layout import empty

# Elements of a group's feature that one program reads.
BLOCK = 1024


class Attributes(NamedTuple):
    """What a call does, besides its tensor. `group` divides the batch, `num_channels` the channels."""

    group: int
    num_channels: int
    backend: str


def channels_last(x: Tensor) -> bool:
    """Whether the op works with channels innermost."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def arranged(x: Tensor, last: bool) -> Tensor:
    """`x` packed in that layout: itself if it lies so, else a copy."""
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _allocate(x: Tensor, extra: int) -> Tensor:
    batch, channels, height, width = x.shape
    return empty(torch.Size((batch, channels + extra, height, width)), channels_last(x), x.dtype, x.device)


def sums(attributes: Attributes, x: Tensor, chunks: int) -> Tensor:
    """Uninitialised (groups, num_channels, chunks) in the accumulator's type."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    shape = (x.shape[0] // attributes.group, attributes.num_channels, chunks)
    return torch.empty(shape, dtype=dtype, device=x.device)


def chunks_of(attributes: Attributes, x: Tensor) -> int:
    """How many programs share a feature of a group."""
    return -(-x.shape[1] // attributes.num_channels * x.shape[2] * x.shape[3] // BLOCK)


def fake_forward(attributes: Attributes, inputs: Tensors) -> Tensors:
    """The result, and each program's sum of standard deviations, uninitialised."""
    (x,) = inputs
    return _allocate(x, attributes.num_channels), sums(attributes, x, chunks_of(attributes, x))


def fake_backward(
    attributes: Attributes, needs: Needs, grad_output: Tensor, inputs: Tensors, output: Tensor, state: Tensors
) -> tuple[Gradients, Tensors]:
    """The gradient of x, and the summed gradient of every statistic, uninitialised."""
    (x,) = inputs
    return (_allocate(x, 0) if needs[0] else None,), (sums(attributes, x, 1),)


def fake_double_backward(
    attributes: Attributes,
    needs: Needs,
    cotangents: Tensors,
    grad_output: Tensor,
    inputs: Tensors,
    output: Tensor,
    state: Tensors,
    notes: Tensors,
) -> Gradients:
    """Gradients of grad_output and x, uninitialised."""
    (x,) = inputs
    extra = (attributes.num_channels, 0)
    return tuple(_allocate(x, more) if needed else None for more, needed in zip(extra, needs))
