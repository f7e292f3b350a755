"""The attributes of a call, how a tensor lies in memory, and the shapes, types and layouts of all results."""

from typing import NamedTuple

import torch
from torch import Tensor

from ganfuse.kernels.autograd import Gradients, Needs, Tensors

# These have a second derivative beyond 0.
CURVED = ("tanh", "sigmoid", "elu", "selu", "softplus", "swish")


class Attributes(NamedTuple):
    """What a call does, besides its tensors. A negative `clamp` means none."""

    dim: int
    act: str
    alpha: float
    gain: float
    clamp: float
    backend: str


def packed(x: Tensor) -> Tensor:
    """`x` itself if it has no gaps, else a copy that has none, with its dimensions in the same order in memory."""
    if x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return x
    copy = torch.empty_like(x)
    return x if x.stride() == copy.stride() else copy.copy_(x)


def packed_like(x: Tensor, layout: Tensor) -> Tensor:
    """`x` laid out as the packed tensor `layout` is: itself if it lies so, else a copy."""
    if x.stride() == layout.stride():
        return x
    return torch.empty_like(layout, dtype=x.dtype).copy_(x)


def inner_size(x: Tensor, dim: int) -> int:
    """How many elements of a packed `x` lie between neighbours along `dim`: 1 in channels_last, H·W in NCHW."""
    if x.shape[dim] > 1:
        return x.stride(dim)
    inner = 1
    for other in range(dim + 1, x.ndim):
        inner *= x.shape[other]
    return inner


def fake_forward(attributes: Attributes, inputs: Tensors) -> Tensors:
    """The result, uninitialised; and, since a custom op with one result cannot return a tuple, an empty tensor."""
    x, _ = inputs
    return torch.empty_like(x), x.new_empty(0)


def fake_backward(
    attributes: Attributes, needs: Needs, grad_output: Tensor, inputs: Tensors, output: Tensor, state: Tensors
) -> tuple[Gradients, Tensors]:
    """Gradients of x and of the bias, uninitialised."""
    x, b = inputs
    return (torch.empty_like(x) if needs[0] else None, torch.empty_like(b) if needs[1] else None), ()


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
    """Gradients of grad_output, x and the bias: uninitialised, or one zero many times over where they are zero."""
    x, b = inputs
    grad_grad = torch.empty_like(x) if needs[0] else None
    if attributes.act not in CURVED:
        zeros = (t.new_zeros(()).expand(t.shape) if needed else None for t, needed in zip(inputs, needs[1:]))
        return (grad_grad, *zeros)
    grad_x = torch.empty_like(x) if needs[1] else None
    return grad_grad, grad_x, torch.empty_like(b) if needs[2] else None
