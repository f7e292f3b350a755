"""The Triton backend: at most three launches forward, three backward, three for the second backward.

In each the first pass over the maps leaves sums, a small launch makes coefficients of them, the second pass applies
these. Statistics of rows that stay on chip need one launch forward, and one or two backward. Where several processes
share a batch, PyTorch and a collective stand in place of the small launch. Noise and prologue are part of the passes
forward and backward; their second backward, the gradient of the noise itself, and they where processes share a batch
are composed (`noise`).
"""

import functools
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from ganfuse.kernels.autograd import Gradients, Implementation, Needs, Tensors
from ganfuse.kernels.channel_norm import allocation, composition
from ganfuse.kernels.channel_norm.allocation import NOISE, PROLOGUE_BIAS, STRENGTH, Attributes, is_noisy
from ganfuse.kernels.channel_norm.configs import power_of_two
from ganfuse.kernels.channel_norm.noise import with_noise
from ganfuse.kernels.channel_norm.running import UpdatingAttributes
from ganfuse.kernels.channel_norm.triton_backward_coefficients import norm_backward_coefficients
from ganfuse.kernels.channel_norm.triton_coefficients import norm_coefficients
from ganfuse.kernels.channel_norm.triton_double_coefficients import norm_double_coefficients
from ganfuse.kernels.channel_norm.triton_passes import Map, TritonPasses
from ganfuse.kernels.channel_norm.triton_rows import norm_row_totals
from ganfuse.kernels.launch import launch
from ganfuse.kernels.layout import MapView

_SHARED = composition.composed(lambda x: TritonPasses())


class _Small(NamedTuple):
    """How the (B, C) arithmetic of a call is cut: programs along C, `width` channels each."""

    grid: tuple[int]
    numbers: tuple[int, int, int, int]
    constants: dict[str, Any]
    num_warps: int


@functools.lru_cache(maxsize=4096)
def _small(
    kind: str,
    groups: int,
    unbiased: bool,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    target: str,
    elements: int,
) -> _Small:
    batch, channels, positions = shape
    if kind in ("group", "mix"):
        width = channels // groups
        block_c = power_of_two(width)
    else:
        width = block_c = min(power_of_two(channels), 16)
    block_b = max(1, min(power_of_two(batch), (32 if target == "interpreter" else elements) // block_c))
    constants = {
        "KIND": kind,
        "UNBIASED": unbiased,
        "BLOCK_B": block_b,
        "BLOCK_C": block_c,
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
    }
    warps = max(1, min(16, block_b * block_c // 128))
    return _Small((-(-channels // width),), (batch, channels, positions, width), constants, warps)


def _start(
    kernel: Any,
    attributes: Attributes,
    at: Map,
    elements: int,
    pointers: list[Tensor],
    strides: list[int] | list[float],
    tail: list[int],
    constants: dict[str, Any],
) -> None:
    """Run a kernel between the passes, whose tiles have about `elements` numbers."""
    plan = _small(attributes.kind, attributes.groups, attributes.unbiased, at.shape, at.dtype, at.target, elements)
    launch(
        kernel, plan.grid, at.device, [*pointers, *strides, *plan.numbers, *tail], {**plan.constants, **constants},
        num_warps=plan.num_warps, num_stages=1,
    )  # fmt: skip


def _packed(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.contiguous()


def _stride(parameter: Tensor | None, channels: int) -> int:
    """From sample to sample: 0 where all share a row."""
    return channels if parameter is not None and parameter.ndim == 2 else 0


def forward(attributes: Attributes, inputs: Tensors) -> Tensors:
    """Statistics, coefficients, apply; or one launch, of rows that stay on chip."""
    if attributes.process_group:
        return (_COMPOSED if is_noisy(attributes, inputs) else _SHARED).forward(attributes, inputs)
    x = inputs[0]
    gain, bias, rho, mean, var = map(_packed, inputs[1:NOISE])
    at = Map(x, attributes, inputs)
    accumulator = allocation.accumulator(x.dtype)
    batch, channels, positions = at.shape
    planes = (allocation.num_planes(attributes), batch, channels)
    coefficients = torch.empty(planes, dtype=accumulator, device=x.device)
    moments = torch.empty((3, channels if attributes.kind == "batch" else 0), dtype=accumulator, device=x.device)
    strides = (_stride(gain, channels), _stride(bias, channels))
    if attributes.kind == "row" and at.holds("rows"):
        return at.rows(coefficients, gain, bias, strides), coefficients, moments
    # A pointer that the kernel does not follow must still be one.
    partials, splits, chunk = coefficients, 1, positions
    if attributes.kind != "given":
        partials, splits, chunk = at.statistics()
    pointers = [partials, *(coefficients if p is None else p for p in (gain, bias, rho, mean, var))]
    running = attributes.running if isinstance(attributes, UpdatingAttributes) else None
    written = [moments, moments] if running is None else [running.mean, running.var]
    _start(
        norm_coefficients, attributes, at, 512, [*pointers, coefficients, moments, *written],
        [0.0 if running is None else running.momentum, *strides], [splits, chunk],
        {
            "HAS_GAIN": gain is not None, "HAS_BIAS": bias is not None, "EPS": attributes.eps,
            "UPDATE": running is not None,
        },
    )  # fmt: skip
    if running is not None:
        running.was_written()
    return at.apply(coefficients), coefficients, moments


def _gradient_flags(needs: Needs, gain: Tensor | None, bias: Tensor | None) -> dict[str, bool]:
    return {
        "GAIN": needs[0],
        "BIAS": needs[1],
        "RHO": needs[2],
        "GAIN_PER_SAMPLE": gain is not None and gain.ndim == 2,
        "BIAS_PER_SAMPLE": bias is not None and bias.ndim == 2,
    }


def backward(
    attributes: Attributes, needs: Needs, grad_output: Tensor, inputs: Tensors, output: Tensor, state: Tensors
) -> tuple[Gradients, Tensors]:
    """Sums, coefficients, apply; or one pass, of rows that stay on chip, and a launch to sum what it leaves."""
    noisy = is_noisy(attributes, inputs)
    if attributes.process_group or needs[NOISE]:
        return (_COMPOSED if noisy else _SHARED).backward(attributes, needs, grad_output, inputs, output, state)
    x, (gain, bias, rho) = inputs[0], map(_packed, inputs[1:4])
    coefficients = state[0]
    at = Map(x, attributes, inputs)
    channels = at.shape[1]
    grad = at.view(grad_output)
    parameters = (gain, bias, rho, inputs[STRENGTH], inputs[PROLOGUE_BIAS])
    asked = (*needs[1:4], *needs[STRENGTH:])
    if attributes.kind == "given" and not any(asked):
        # Statistics that are given need no sums for the gradient of x.
        zeros = coefficients.new_zeros((2, *coefficients.shape[1:]))
        return (at.apply_backward(grad, coefficients, zeros), *(None,) * 8), ()
    gradients = [
        torch.empty(p.shape, dtype=p.dtype, device=p.device) if p is not None and needed else None
        for p, needed in zip(parameters, asked)
    ]
    if attributes.kind == "row" and at.holds("rows_backward"):
        on_x: Tensor | None = _rows_backward(attributes, at, grad, coefficients, gradients)
    else:
        partials = at.sums(grad, coefficients)
        linears = torch.empty((2, *coefficients.shape[1:]), dtype=coefficients.dtype, device=x.device)
        ins = [coefficients if p is None else p for p in (gain, rho)]
        outs = [linears, *(linears if g is None else g for g in gradients)]
        wanted = _wanted(gradients)
        _start(
            norm_backward_coefficients, attributes, at, 512, [partials.memory, coefficients, *ins, *outs],
            [_stride(gain, channels), _stride(bias, channels)], [partials.splits],
            {
                "HAS_GAIN": gain is not None, "STRENGTH": wanted[3], "SHIFT": wanted[4],
                "PROLOGUE": at.noise.is_prologue, **_gradient_flags(wanted, gain, bias),
            },
        )  # fmt: skip
        on_x = at.apply_backward(grad, coefficients, linears) if needs[0] else None
    return (on_x if needs[0] else None, *gradients[:3], None, None, None, *gradients[3:]), ()


def _rows_backward(
    attributes: Attributes, at: Map, grad: MapView, coefficients: Tensor, gradients: list[Tensor | None]
) -> Tensor:
    """The gradient of x; writes those of the parameters."""
    batch, channels, _ = at.shape
    targets = [gradients[i] for i in (0, 1, 3, 4)]
    shared = [g if g is not None and g.ndim == 1 else None for g in targets]
    if not any(g is not None for g in shared):
        return at.rows_backward(grad, coefficients, targets)
    planes = torch.empty((4, batch, channels), dtype=coefficients.dtype, device=coefficients.device)
    sums = [t if s is None else plane for t, s, plane in zip(targets, shared, planes.unbind(0))]
    on_x = at.rows_backward(grad, coefficients, sums)
    plan = _small("row", 1, False, at.shape, at.dtype, at.target, 512)
    flags = dict(zip(("GAIN", "BIAS", "STRENGTH", "SHIFT"), _wanted(shared)))
    sizes = {name: plan.constants[name] for name in ("BLOCK_B", "BLOCK_C", "ACC")}
    launch(
        norm_row_totals, plan.grid, at.device,
        [planes, *(planes if g is None else g for g in shared), batch, channels, plan.numbers[3]], {**flags, **sizes},
        num_warps=plan.num_warps, num_stages=1,
    )  # fmt: skip
    return on_x


def _wanted(gradients: list[Tensor | None]) -> Needs:
    return tuple(g is not None for g in gradients)


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
    """Sums, coefficients, apply."""
    if is_noisy(attributes, inputs):
        return _COMPOSED.double_backward(attributes, needs, cotangents, grad_output, inputs, output, state, notes)
    if attributes.process_group:
        return _SHARED.double_backward(attributes, needs, cotangents, grad_output, inputs, output, state, notes)
    x, (gain, bias, rho) = inputs[0], map(_packed, inputs[1:4])
    coefficients = state[0]
    at = Map(x, attributes)
    channels = at.shape[1]
    grad, h = at.view(grad_output), at.view(cotangents[0])
    partials = at.double_sums(grad, h, coefficients)
    second = torch.empty((6, *coefficients.shape[1:]), dtype=coefficients.dtype, device=x.device)
    gradients = [
        torch.empty_like(p) if p is not None and needed else None for p, needed in zip((gain, bias, rho), needs[2:5])
    ]
    ins = [coefficients if p is None else p for p in (gain, rho, *map(_packed, cotangents[1:4]))]
    outs = [second, *(second if g is None else g for g in gradients)]
    _start(
        norm_double_coefficients, attributes, at, 256, [partials.memory, coefficients, *ins, *outs],
        [_stride(gain, channels), _stride(bias, channels)], [partials.splits],
        {
            "HAS_GAIN": gain is not None,
            "HAS_BIAS": bias is not None,
            "SILU": attributes.activation == "silu",
            **_gradient_flags(_wanted(gradients), gain, bias),
        },
    )  # fmt: skip
    on_grad, on_x = at.apply_double_backward(grad, h, coefficients, second, needs[0], needs[1])
    return (on_grad, on_x, *gradients, *(None,) * 5)


IMPLEMENTATION = Implementation(
    forward, backward, double_backward,
    allocation.fake_forward, allocation.fake_backward, allocation.fake_double_backward,
)  # fmt: skip
_COMPOSED = with_noise(IMPLEMENTATION)
