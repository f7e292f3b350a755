"""The attributes of an attention call, and the shapes, types and layouts of everything it returns.

Launchers and fake kernels allocate here alike, so that a compiled graph is promised the strides that it gets.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ganfuse.kernels.autograd import Gradients, Needs, Tensors
from ganfuse.kernels.feature_attention.tokens import common_layout, empty, shape_of


class Attributes(NamedTuple):
    """What an attention call does, besides its tensors."""

    scale: float
    is_causal: bool
    form: str
    backend: str


def fake_forward(attributes: Attributes, inputs: Tensors) -> Tensors:
    """Output and row log-sum-exp, uninitialised."""
    query, key, value = inputs
    form = attributes.form
    is_map = form == "map"
    shape = (*value.shape[:2], *query.shape[2:]) if is_map else (*query.shape[:-1], value.shape[-1])
    output = empty(shape, form, common_layout(form, value, query, key), value)
    return output, _row(attributes, query)


def _row(attributes: Attributes, query: Tensor) -> Tensor:
    sizes = shape_of(query, attributes.form)
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    return torch.empty((sizes.batch * sizes.heads, sizes.tokens), dtype=dtype, device=query.device)


def _like(attributes: Attributes, inputs: Tensors, x: Tensor) -> Tensor:
    query, key, value = inputs
    return empty(x.shape, attributes.form, common_layout(attributes.form, value, query, key), x)


def fake_backward(
    attributes: Attributes, needs: Needs, grad_output: Tensor, inputs: Tensors, output: Tensor, state: Tensors
) -> tuple[Gradients, Tensors]:
    """Gradients of the inputs, and δ, uninitialised."""
    gradients = tuple(_like(attributes, inputs, x) if needed else None for x, needed in zip(inputs, needs))
    return gradients, (_row(attributes, inputs[0]),)


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
    """Gradients of grad_output and the inputs, uninitialised."""
    return tuple(_like(attributes, inputs, x) if needed else None for x, needed in zip((grad_output, *inputs), needs))
