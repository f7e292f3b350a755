"""Launchers: how a tensor is cut into rows and columns, and the buffers of the bias's gradient."""

import functools
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from ganfuse.kernels.autograd import Gradients, Implementation, Needs, Tensors
from ganfuse.kernels.bias_act.allocation import (
    CURVED,
    Attributes,
    fake_backward,
    fake_double_backward,
    fake_forward,
    inner_size,
    packed,
    packed_like,
)
from ganfuse.kernels.bias_act.triton_pointwise import bias_act_forward, bias_act_gradient
from ganfuse.kernels.launch import launch
from ganfuse.kernels.precision import float32_pair

_TILE = 2048
# Programs that fill a large GPU a few times over: from there on, one program takes several tiles.
_PROGRAMS = 1024
_MOST_REPEATS = 64


class _Plan(NamedTuple):
    """How a tensor is cut into tiles, and what every launch on it takes."""

    scalars: tuple[float, ...]
    sizes: tuple[int, ...]
    constants: dict[str, Any]
    row_blocks: int
    chunks: int
    rows: int
    columns: int


def _block(columns: int) -> int:
    """The tile's width that wastes least, the widest of equals."""
    widths = [1 << k for k in range(5, _TILE.bit_length())]
    return min(widths, key=lambda width: (-(-columns // width) * width, -width))


@functools.lru_cache(maxsize=4096)
def _plan(attributes: Attributes, dtype: torch.dtype, numel: int, channels: int, inner: int) -> _Plan:
    """`channels` is 0 where there is no bias."""
    if channels == 0:
        bias, rows, columns = "none", 1, numel
    elif inner >= 16:
        bias, rows, columns = "rows", numel // inner, inner
    else:
        bias, rows, columns = "columns", numel // (channels * inner), channels * inner
    block_c = _block(columns)
    block_r = max(1, _TILE // block_c) if bias != "none" else 1
    unit = next(u for u in (16, 8, 4, 2, 1) if columns % u == 0)
    chunks, row_blocks = -(-columns // block_c), -(-rows // block_r)
    constants = {
        "BLOCK_R": block_r,
        "BLOCK_C": block_c,
        "UNIT": unit,
        "EVEN_C": columns % block_c == 0,
        "INNER": 1 if bias == "rows" else inner,
        "BIAS": bias,
        "ACT": attributes.act,
        "CLAMP": attributes.clamp >= 0,
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
    }
    scalars = tuple(
        part for n in (attributes.alpha, attributes.gain, attributes.clamp) for part in float32_pair(n, dtype)
    )  # fmt: skip
    return _Plan(
        scalars, (rows, columns // unit, max(channels, 1), chunks), constants, row_blocks, chunks, rows, columns
    )


def _plan_of(attributes: Attributes, x: Tensor, b: Tensor | None) -> _Plan:
    channels = 0 if b is None else b.numel()
    inner = inner_size(x, attributes.dim) if channels else 1
    return _plan(attributes, x.dtype, x.numel(), channels, inner)


def forward(attributes: Attributes, inputs: Tensors) -> Tensors:
    x, b = inputs
    output, nothing = fake_forward(attributes, inputs)
    if x.numel() == 0:
        return output, nothing
    x = packed(x)
    plan = _plan_of(attributes, x, b)
    launch(
        bias_act_forward, (plan.row_blocks * plan.chunks,), x.device,
        [x, x if b is None else b.contiguous(), output, *plan.scalars, *plan.sizes], plan.constants,
        num_warps=4, num_stages=1,
    )  # fmt: skip
    return output, nothing


def _gradient(
    attributes: Attributes, x: Tensor, b: Tensor | None, cotangent: Tensor, bias_cotangent: Tensor | None,
    grad: Tensor | None, out: Tensor | None, curved: Tensor | None, bias_gradient: Tensor | None,
) -> None:  # fmt: skip
    """One launch of the gradient kernel and, for the bias, the sum of what its programs leave."""
    x = packed(x)
    plan = _plan_of(attributes, x, b)
    by_rows = plan.constants["BIAS"] == "rows"
    repeats = 1
    partial = x
    if bias_gradient is not None:
        if not by_rows:
            repeats = max(1, min(_MOST_REPEATS, plan.row_blocks * plan.chunks // _PROGRAMS))
        blocks = -(-plan.row_blocks // repeats)
        shape = (plan.rows, plan.chunks) if by_rows else (blocks, plan.columns)
        accumulator = torch.float64 if x.dtype == torch.float64 else torch.float32
        partial = torch.empty(shape, dtype=accumulator, device=x.device)
    tensors = [
        x, x if b is None else b.contiguous(), packed_like(cotangent, x),
        x if bias_cotangent is None else bias_cotangent.contiguous(),
        x if grad is None else packed_like(grad, x), x if out is None else out, x if curved is None else curved,
        partial,
    ]  # fmt: skip
    constants = {
        **plan.constants,
        "SLOPE": out is not None or curved is None,
        "CURVE": curved is not None,
        "BIAS_COTANGENT": bias_cotangent is not None,
        "SUM": bias_gradient is not None,
    }
    launch(
        bias_act_gradient, (-(-plan.row_blocks // repeats) * plan.chunks,), x.device,
        [*tensors, *plan.scalars, *plan.sizes, repeats], constants, num_warps=4, num_stages=1,
    )  # fmt: skip
    if bias_gradient is not None:
        view = (-1, bias_gradient.numel(), plan.chunks if by_rows else int(plan.constants["INNER"]))
        bias_gradient.copy_(partial.view(view).sum((0, 2)))


def backward(
    attributes: Attributes, needs: Needs, grad_output: Tensor, inputs: Tensors, output: Tensor, state: Tensors
) -> tuple[Gradients, Tensors]:
    x, b = inputs
    gradients, notes = fake_backward(attributes, needs, grad_output, inputs, output, state)
    grad_x, grad_b = gradients
    if x.numel() == 0:
        return _zeroed(gradients), notes
    if grad_x is not None or grad_b is not None:
        out = torch.empty_like(x) if grad_x is None else grad_x
        _gradient(attributes, x, b, grad_output, None, None, out, None, grad_b)
    return gradients, notes


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
    x, b = inputs
    gradients = fake_double_backward(attributes, needs, cotangents, grad_output, inputs, output, state, notes)
    grad_grad, grad_x, grad_b = gradients
    if x.numel() == 0:
        return _zeroed(gradients)
    curved = None
    if attributes.act in CURVED and (grad_x is not None or grad_b is not None):
        curved = torch.empty_like(x) if grad_x is None else grad_x
    if grad_grad is not None or curved is not None:
        bias_gradient = None if curved is None else grad_b
        _gradient(attributes, x, b, cotangents[0], cotangents[1], grad_output, grad_grad, curved, bias_gradient)
    return gradients


def _zeroed(gradients: Gradients) -> Gradients:
    # Of an empty batch: the bias's gradient is a sum of nothing.
    return tuple(None if g is None else torch.zeros_like(g) for g in gradients)


IMPLEMENTATION = Implementation(
    forward, backward, double_backward, fake_forward, fake_backward, fake_double_backward
)  # fmt: skip
