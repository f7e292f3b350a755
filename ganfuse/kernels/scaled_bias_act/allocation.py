"""The attributes of a call, and the shapes, types and layouts of all results."""

from typing import NamedTuple

import torch
from torch import Tensor

from ganfuse.kernels.autograd import Gradients, Needs, Tensors
from ganfuse.kernels.bias_act.allocation import CURVED
from ganfuse.kernels.layout import empty, is_channels_last


class Attributes(NamedTuple):
    """What a call does, besides its tensors. A negative `clamp` means none."""

    act: str
    alpha: float
    gain: float
    clamp: float
    backend: str

    def definition(self) -> tuple[str, float, float, float | None]:
        """As the definition takes them: act, alpha, gain, clamp."""
        return self.act, self.alpha, self.gain, None if self.clamp < 0 else self.clamp


def map_like(x: Tensor) -> Tensor:
    """An uninitialised map of x's shape and type, in its layout."""
    return empty(x.shape, is_channels_last(x), x.dtype, x.device)


def keeps_preactivation(attributes: Attributes) -> bool:
    """Whether the CPU form keeps what the activation was applied to, beside x."""
    return attributes.backend == "eager" and (attributes.act != "linear" or attributes.clamp >= 0)


def fake_forward(attributes: Attributes, inputs: Tensors) -> Tensors:
    """The result, uninitialised; and gain · (scale · x + noise + b) where it is kept, else an empty tensor."""
    x = inputs[0]
    return map_like(x), map_like(x) if keeps_preactivation(attributes) else x.new_empty(0)


def _small_like(t: Tensor) -> Tensor:
    return torch.empty(t.shape, dtype=t.dtype, device=t.device)


def fake_backward(
    attributes: Attributes, needs: Needs, grad_output: Tensor, inputs: Tensors, output: Tensor, state: Tensors
) -> tuple[Gradients, Tensors]:
    """Gradients of x, the scale, the noise and the bias, uninitialised."""
    x, *others = inputs
    small = (_small_like(t) if needed else None for t, needed in zip(others, needs[1:]))
    return (map_like(x) if needs[0] else None, *small), ()


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
    """Gradients of grad_output and of the inputs: uninitialised, or one zero many times over where they are zero."""
    x, scale, noise, b = inputs
    grad_grad = map_like(x) if needs[0] else None
    # Without a scale and a curve, nothing but grad_output is there to depend on.
    flat = attributes.act not in CURVED

    def zero(t: Tensor) -> Tensor:
        return t.new_zeros(()).expand(t.shape)

    grad_x = None
    if needs[1]:
        grad_x = zero(x) if flat and scale is None else map_like(x)
    grad_scale = _small_like(scale) if needs[2] else None
    others = ((zero(t) if flat else _small_like(t)) if needed else None for t, needed in zip((noise, b), needs[3:]))
    return grad_grad, grad_x, grad_scale, *others
