"""The attributes of a call, the two layouts, and the shapes, types and layouts of all results.

The state is ``r = 1 / sqrt(mean x² + eps)`` of every pixel, the note ``s = mean x·dy``.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ganfuse.kernels.autograd import Gradients, Needs, Tensors


class Attributes(NamedTuple):
    """What a call does, besides its tensor."""

    eps: float
    backend: str


def channels_last(x: Tensor) -> bool:
    """Whether the kernels read `x` with channels innermost: (B, C), and 4 dimensions in channels_last."""
    if x.ndim == 4:
        return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return x.ndim == 2


def empty(x: Tensor, last: bool) -> Tensor:
    """Uninitialised, of x's shape and type, in that layout."""
    format = torch.channels_last if last and x.ndim == 4 else torch.contiguous_format
    return torch.empty_like(x, memory_format=format)


def arranged(x: Tensor, last: bool) -> Tensor:
    """`x` in that layout: itself if it lies so, else a copy."""
    format = torch.channels_last if last and x.ndim == 4 else torch.contiguous_format
    return x.contiguous(memory_format=format)


def rows(x: Tensor) -> Tensor:
    """An uninitialised number per pixel, (B, 1, ...), in the accumulator's type."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.empty((x.shape[0], 1, *x.shape[2:]), dtype=dtype, device=x.device)


def fake_forward(attributes: Attributes, inputs: Tensors) -> Tensors:
    """Output and r, uninitialised."""
    (x,) = inputs
    return empty(x, channels_last(x)), rows(x)


def fake_backward(
    attributes: Attributes, needs: Needs, grad_output: Tensor, inputs: Tensors, output: Tensor, state: Tensors
) -> tuple[Gradients, Tensors]:
    """Gradient of x, and s, uninitialised."""
    (x,) = inputs
    return (empty(x, channels_last(x)) if needs[0] else None,), (rows(x),)


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
    last = channels_last(x)
    return tuple(empty(x, last) if needed else None for needed in needs)
