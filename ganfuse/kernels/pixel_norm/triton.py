"""Launchers: tile shapes, and the copies that a tensor in neither layout needs."""

import functools
import math
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from ganfuse.kernels.autograd import Gradients, Implementation, Needs, Tensors
from ganfuse.kernels.launch import launch
from ganfuse.kernels.pixel_norm.allocation import (
    Attributes,
    arranged,
    channels_last,
    fake_backward,
    fake_double_backward,
    fake_forward,
)
from ganfuse.kernels.pixel_norm.triton_pixels import (
    pixel_norm_backward,
    pixel_norm_double_backward,
    pixel_norm_forward,
)
from ganfuse.kernels.precision import float32_pair

_TILE = 2048
# So many pixels of 16 bits are a full line of the cache.
_PIXELS = 64


class _Plan(NamedTuple):
    """What every launch on tensors of one shape takes."""

    grid: tuple[int]
    sizes: tuple[int, int, int]
    constants: dict[str, Any]


def _power_of_two_over(size: int) -> int:
    return 1 << max(0, (size - 1).bit_length())


@functools.lru_cache(maxsize=4096)
def _plan(shape: tuple[int, ...], last: bool, dtype: torch.dtype) -> _Plan:
    batch, channels, pixels = shape[0], shape[1], math.prod(shape[2:])
    if last:
        block_c = min(_power_of_two_over(channels), _TILE)
        block_p = min(_power_of_two_over(batch * pixels), _TILE // block_c)
        programs = -(-batch * pixels // block_p)
    else:
        block_p = min(_power_of_two_over(pixels), _PIXELS)
        block_c = min(_power_of_two_over(channels), _TILE // block_p)
        programs = batch * -(-pixels // block_p)
    unit_c, unit_p = (math.gcd(16, size) for size in (channels, pixels))
    constants = {
        "BLOCK_P": block_p,
        "BLOCK_C": block_c,
        "UNIT_C": unit_c,
        "UNIT_P": unit_p,
        "EVEN_P": pixels % block_p == 0,
        "EVEN_C": channels % block_c == 0,
        "ONE": channels <= block_c,
        "CHANNELS_LAST": last,
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
    }
    return _Plan((programs,), (batch * pixels, channels // unit_c, pixels // unit_p), constants)


def _start(kernel: Any, tensors: list[Tensor], scalars: tuple[float, ...], last: bool, **flags: bool) -> None:
    """Run `kernel` on `tensors`, of which the first is x."""
    x = tensors[0]
    plan = _plan(tuple(x.shape), last, x.dtype)
    launch(
        kernel, plan.grid, x.device, [*tensors, *scalars, *plan.sizes], {**plan.constants, **flags},
        num_warps=4, num_stages=1,
    )  # fmt: skip


def forward(attributes: Attributes, inputs: Tensors) -> Tensors:
    (x,) = inputs
    output, r = fake_forward(attributes, inputs)
    last = channels_last(x)
    eps = float32_pair(attributes.eps, x.dtype)
    _start(pixel_norm_forward, [arranged(x, last), output, r], eps, last)
    return output, r


def backward(
    attributes: Attributes, needs: Needs, grad_output: Tensor, inputs: Tensors, output: Tensor, state: Tensors
) -> tuple[Gradients, Tensors]:
    (x,), (r,) = inputs, state
    gradients, (s,) = fake_backward(attributes, needs, grad_output, inputs, output, state)
    last = channels_last(x)
    dx = torch.empty_like(arranged(x, last)) if gradients[0] is None else gradients[0]
    _start(pixel_norm_backward, [arranged(x, last), arranged(grad_output, last), r, s, dx], (), last)
    return gradients, (s,)


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
    (x,), (r,), (s,), (h,) = inputs, state, notes, cotangents
    gradients = fake_double_backward(attributes, needs, cotangents, grad_output, inputs, output, state, notes)
    last = channels_last(x)
    x, grad, h = (arranged(t, last) for t in (x, grad_output, h))
    outs = [x if g is None else g for g in gradients]
    wanted = [g is not None for g in gradients]
    if any(wanted):
        _start(
            pixel_norm_double_backward, [x, grad, h, r, s, *outs], (), last, GRAD=wanted[0], INPUT=wanted[1]
        )  # fmt: skip
    return gradients


IMPLEMENTATION = Implementation(
    forward, backward, double_backward, fake_forward, fake_backward, fake_double_backward
)  # fmt: skip
