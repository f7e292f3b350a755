"""The form for CPUs: few passes in plain PyTorch, for activations that are made of straight lines.

The gain goes into scale, noise and bias, which are small: gain · act(u) = act(gain · u). What the activation is applied
to is kept, as PyTorch's own backward would, for a pass over memory costs more than memory does.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfuse.kernels.autograd import Gradients, Implementation, Needs, Tensors
from ganfuse.kernels.channel_norm.eager_maps import row_sums
from ganfuse.kernels.layout import empty, is_channels_last
from ganfuse.kernels.scaled_bias_act.allocation import (
    Attributes,
    fake_backward,
    fake_double_backward,
    fake_forward,
    keeps_preactivation,
    map_like,
)

_aten = torch.ops.aten


def _like(t: Tensor, x: Tensor) -> Tensor:
    """`t` in x's type, dense and in x's layout."""
    format = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return t.to(x.dtype).contiguous(memory_format=format)


def _factor(attributes: Attributes, scale: Tensor | None, x: Tensor) -> Tensor | None:
    """gain · scale, (B, C, 1, 1) in x's type; None for 1."""
    if scale is not None:
        return (scale * attributes.gain).to(x.dtype)[:, :, None, None]
    return None if attributes.gain == 1.0 else x.new_tensor(attributes.gain)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(B, C) sums of a·b over the positions, of dense maps of one layout, accumulated in float32 at least."""
    if a.numel() == 0 or is_channels_last(a) or a.dtype in (torch.float16, torch.bfloat16):
        return (a * b).sum((2, 3), dtype=torch.promote_types(a.dtype, torch.float32))
    flat = (a.shape[0] * a.shape[1], 1, -1)
    return torch.bmm(a.reshape(flat), b.reshape(flat).transpose(1, 2)).view(a.shape[:2])


def forward(attributes: Attributes, inputs: Tensors) -> Tensors:
    x, scale, noise, b = inputs
    factor = _factor(attributes, scale, x)
    u = map_like(x)
    if noise is not None:
        shift = (noise * attributes.gain).to(x.dtype)
        torch.add(x, shift, out=u) if factor is None else torch.addcmul(shift, x, factor, out=u)
    elif factor is not None:
        torch.mul(x, factor, out=u)
    else:
        u.copy_(x)
    if b is not None:
        u.add_((b * attributes.gain).to(x.dtype)[:, None, None])
    if not keeps_preactivation(attributes):
        return u, x.new_empty(0)
    y = u
    if attributes.act != "linear":
        y = F.leaky_relu(u, attributes.alpha if attributes.act == "lrelu" else 0.0)
    if attributes.clamp >= 0:
        y = y.clamp(-attributes.clamp, attributes.clamp) if y is u else y.clamp_(-attributes.clamp, attributes.clamp)
    return y, u


def _sloped(attributes: Attributes, grad: Tensor, u: Tensor) -> Tensor:
    """act′(u)·grad where f is not cut off: all of f′ but the gain. May be `grad` itself."""
    alpha = attributes.alpha if attributes.act == "lrelu" else 0.0
    if attributes.act != "linear":
        grad = _aten.leaky_relu_backward(grad, u, alpha, False)
    if attributes.clamp >= 0:
        grad = _aten.hardtanh_backward(grad, u, *_limits(attributes.act, alpha, attributes.clamp, u.dtype))
    return grad


@functools.lru_cache(maxsize=256)
def _limits(act: str, alpha: float, clamp: float, dtype: torch.dtype) -> tuple[float, float]:
    """Between which u, these left out, the activation of u is within ±clamp, that included."""
    slope = 1.0 if act == "linear" else abs(alpha)
    ends = torch.tensor([-clamp / slope if slope else -math.inf, clamp], dtype=dtype)
    low, high = torch.nextafter(ends, torch.tensor([-math.inf, math.inf], dtype=dtype)).tolist()
    return low, high


def _times(t: Tensor, factor: Tensor | None) -> Tensor:
    """The product, a tensor of its own."""
    return t.clone() if factor is None else t * factor


def backward(
    attributes: Attributes, needs: Needs, grad_output: Tensor, inputs: Tensors, output: Tensor, state: Tensors
) -> tuple[Gradients, Tensors]:
    x, scale, noise, b = inputs
    gain = attributes.gain
    g = _sloped(attributes, _like(grad_output, x), state[0])
    on_x = _times(g, _factor(attributes, scale, x)) if needs[0] else None
    on_scale = on_noise = on_b = row_totals = None
    if needs[1] and g.dtype in (torch.float32, torch.float64):
        row_totals, dots = row_sums(g, _like(x, x), is_channels_last(x))
        on_scale = (dots * gain).to(scale.dtype)
    elif needs[1]:
        on_scale = (_dot(g, _like(x, x)) * gain).to(scale.dtype)
    if needs[2]:
        dims = (1,) if noise.shape[0] == x.shape[0] else (0, 1)
        on_noise = (g.sum(dims, dtype=_wide(x)) * gain).to(noise.dtype).view(noise.shape)
    if needs[3]:
        total = g.sum((0, 2, 3), dtype=_wide(x)) if row_totals is None else row_totals.sum(0)
        on_b = (total * gain).to(b.dtype)
    return (on_x, on_scale, on_noise, on_b), ()


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def double_backward(
    attributes: Attributes,
    needs: Needs,
    cotangents: Tensors,
    grad_output: Tensor,
    inputs: Tensors,
    output: Tensor,
    state: Tensors,
    notes: Tensors,
) -> Gradients:
    x, scale, _, _ = inputs
    h, h_scale, h_noise, h_b = cotangents
    gradients = list(
        fake_double_backward(attributes, needs, cotangents, grad_output, inputs, output, state, notes)
    )  # fmt: skip
    factor = _factor(attributes, scale, x)
    h = _like(h, x)
    if needs[0]:
        q = empty(x.shape, is_channels_last(x), x.dtype, x.device)
        if h_noise is not None and factor is not None:
            torch.addcmul((h_noise * attributes.gain).to(x.dtype), h, factor, out=q)
        else:
            torch.mul(h, 1.0 if factor is None else factor, out=q)
        if h_scale is not None:
            q.addcmul_(x, (h_scale * attributes.gain).to(x.dtype)[:, :, None, None])
        if h_noise is not None and factor is None:
            q.add_((h_noise * attributes.gain).to(x.dtype))
        if h_b is not None:
            q.add_((h_b * attributes.gain).to(x.dtype)[:, None, None])
        gradients[0] = _sloped(attributes, q, state[0])
    if h_scale is not None and (needs[1] or needs[2]):
        g = _sloped(attributes, _like(grad_output, x), state[0])
        if needs[1]:
            gradients[1] = g * (h_scale * attributes.gain).to(x.dtype)[:, :, None, None]
        if needs[2]:
            gradients[2] = (_dot(h, g) * attributes.gain).to(scale.dtype)
    return tuple(gradients)


IMPLEMENTATION = Implementation(
    forward, backward, double_backward, fake_forward, fake_backward, fake_double_backward
)  # fmt: skip
