"""Launchers: two kernels forward, two backward, two for the second backward."""

import functools
import math
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from ganfuse.kernels.autograd import Gradients, Implementation, Needs, Tensors
from ganfuse.kernels.launch import launch, target_of
from ganfuse.kernels.minibatch_stddev.allocation import (
    BLOCK,
    Attributes,
    arranged,
    channels_last,
    chunks_of,
    fake_backward,
    fake_double_backward,
    fake_forward,
    sums,
)
from ganfuse.kernels.minibatch_stddev.reference import EPS
from ganfuse.kernels.minibatch_stddev.triton_groups import (
    stddev_backward,
    stddev_double_backward,
    stddev_fill,
    stddev_forward,
)


class _Plan(NamedTuple):
    """What the kernels over groups take besides tensors."""

    grid: tuple[int, int, int]
    numbers: list[int | float]
    constants: dict[str, Any]
    scale: tuple[float, float]
    sample_units: int
    sample_unit: int


def _num_warps(device: torch.device) -> int:
    """So many that a thread has eight values of a block, 128 bits of a half type: CDNA's warps have 64 threads."""
    return 2 if target_of(device).startswith("gfx") else 4


def _split(number: float, dtype: torch.dtype) -> tuple[float, float]:
    """The float32 next to a number and, for float64, what that drops."""
    high = float(torch.tensor(number, dtype=torch.float32)) if dtype == torch.float64 else number
    return high, number - high


@functools.lru_cache(maxsize=1024)
def _plan(attributes: Attributes, shape: tuple[int, ...], last: bool, dtype: torch.dtype, chunks: int) -> _Plan:
    batch, channels, height, width = shape
    group, extra, _ = attributes
    per_feature = channels // extra
    size, sample = per_feature * height * width, (channels + extra) * height * width
    # In channels_last only one feature's values lie side by side.
    unit, sample_unit = math.gcd(16, size), math.gcd(16, sample)
    constants = {
        "BLOCK": BLOCK,
        "UNIT": unit,
        "SAMPLE_UNIT": sample_unit,
        "PER_FEATURE": per_feature,
        "CHANNELS_LAST": last,
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
    }
    groups = batch // group
    numbers = [*_split(EPS, dtype), group, groups, size // unit, channels, extra, sample // sample_unit]
    return _Plan(
        (chunks, extra, groups), numbers, constants, _split(1 / size, dtype), sample // sample_unit, sample_unit
    )


def _plan_of(attributes: Attributes, x: Tensor) -> _Plan:
    return _plan(attributes, tuple(x.shape), channels_last(x), x.dtype, chunks_of(attributes, x))


def _fill(attributes: Attributes, plan: _Plan, y: Tensor, partial: Tensor, scale: tuple[float, float]) -> None:
    batch, channels, height, width = y.shape
    extra, pixels, chunks = attributes.num_channels, height * width, partial.shape[-1]
    constants = {
        "BLOCK": min(BLOCK, 1 << max(0, (pixels - 1).bit_length())),
        "CHUNKS": 1 << max(0, (chunks - 1).bit_length()),
        "SAMPLE_UNIT": plan.sample_unit,
        "CHANNELS_LAST": plan.constants["CHANNELS_LAST"],
        "ACC": plan.constants["ACC"],
    }
    numbers = [chunks, batch // attributes.group, channels - extra, pixels, extra, plan.sample_units, *scale]
    grid = (-(-pixels // constants["BLOCK"]), extra, batch)
    launch(stddev_fill, grid, y.device, [y, partial, *numbers], constants, num_warps=1, num_stages=1)


def forward(attributes: Attributes, inputs: Tensors) -> Tensors:
    (x,) = inputs
    output, partial = fake_forward(attributes, inputs)
    plan = _plan_of(attributes, x)
    x = arranged(x, channels_last(x))
    launch(
        stddev_forward, plan.grid, x.device, [x, output, partial, *plan.numbers], plan.constants,
        num_warps=_num_warps(x.device), num_stages=1,
    )  # fmt: skip
    _fill(attributes, plan, output, partial, plan.scale)
    return output, partial


def backward(
    attributes: Attributes, needs: Needs, grad_output: Tensor, inputs: Tensors, output: Tensor, state: Tensors
) -> tuple[Gradients, Tensors]:
    (x,) = inputs
    gradients, (weights,) = fake_backward(attributes, needs, grad_output, inputs, output, state)
    plan, last, extra = _plan_of(attributes, x), channels_last(x), attributes.num_channels
    if x.shape[0] == 0:
        return gradients, (weights,)
    of_statistics = grad_output[:, x.shape[1] :].reshape(attributes.group, -1, extra, x.shape[2] * x.shape[3])
    torch.sum(of_statistics, (0, 3), dtype=weights.dtype, out=weights[..., 0])
    if gradients[0] is not None:
        tensors = [arranged(x, last), arranged(grad_output, last), weights, gradients[0]]
        launch(
            stddev_backward, plan.grid, x.device, [*tensors, *plan.numbers], plan.constants,
            num_warps=_num_warps(x.device), num_stages=1,
        )  # fmt: skip
    return gradients, (weights,)


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
    (x,), (h,), (weights,) = inputs, cotangents, notes
    gradients = fake_double_backward(attributes, needs, cotangents, grad_output, inputs, output, state, notes)
    grad_grad, grad_x = gradients
    if grad_grad is None and grad_x is None:
        return gradients
    plan, last = _plan_of(attributes, x), channels_last(x)
    partial = sums(attributes, x, chunks_of(attributes, x))
    x = arranged(x, last)
    tensors = [
        x, arranged(h, last), weights, x if grad_grad is None else grad_grad, x if grad_x is None else grad_x, partial
    ]  # fmt: skip
    constants = {**plan.constants, "GRAD": grad_grad is not None, "INPUT": grad_x is not None}
    launch(
        stddev_double_backward, plan.grid, x.device, [*tensors, *plan.numbers], constants,
        num_warps=_num_warps(x.device), num_stages=1,
    )  # fmt: skip
    if grad_grad is not None:
        size = x.shape[1] // attributes.num_channels * x.shape[2] * x.shape[3]
        _fill(attributes, plan, grad_grad, partial, _split(1 / (size * attributes.group), x.dtype))
    return gradients


IMPLEMENTATION = Implementation(
    forward, backward, double_backward, fake_forward, fake_backward, fake_double_backward
)  # fmt: skip
