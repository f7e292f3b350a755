"""The form "implicit_gemm": the forward is one kernel; backwards are those of the form "scaled", when asked for."""

import importlib
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from ganfuse.kernels.autograd import PositionalFunction
from ganfuse.kernels.backend import triton_unavailable
from ganfuse.kernels.layout import is_channels_last
from ganfuse.kernels.modulated_conv2d.demodulation import demodulation, prenormalize
from ganfuse.kernels.modulated_conv2d.geometry import Geometry
from ganfuse.kernels.precision import without_autocast
from ganfuse.kernels.scaled_bias_act.allocation import Attributes
from ganfuse.kernels.weight_gradients import gradients_wanted

_TYPES = (torch.float16, torch.bfloat16, torch.float32)

# (x, weight, styles, noise, b) -> result, by the form whose derivatives this one has.
Composed = Callable[..., Tensor]


def unsupported(x: Tensor, geometry: Geometry) -> str | None:
    """Why the kernel does not take the call; None if it does."""
    reason = triton_unavailable(x.device)
    if reason is not None:
        return reason
    if geometry.up != 1 or geometry.down != 1:
        return "it has no resampling"
    if min(geometry.padding) < 0:
        return "it does not crop"
    if x.dtype not in _TYPES:
        return f"it has no {x.dtype}"
    if not is_channels_last(x):
        return "it reads channels_last maps"
    if max(x.shape[1], x.shape[2], x.shape[3]) >= 2**15:
        return "sides and channels must be below 2^15"
    return None


def run(
    attributes: Attributes,
    geometry: Geometry,
    demodulate: bool,
    composed: Composed,
    inputs: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None],
) -> Tensor:
    """The result for `inputs` x, weight, styles, noise and bias."""
    return cast(Tensor, _Function.apply(attributes, geometry, demodulate, composed, *inputs))


class _Function(PositionalFunction):
    @staticmethod
    def forward(
        attributes: Attributes,
        geometry: Geometry,
        demodulate: bool,
        composed: Composed,
        x: Tensor,
        weight: Tensor,
        styles: Tensor,
        noise: Tensor | None,
        b: Tensor | None,
    ) -> Tensor:
        kernels: Any = importlib.import_module("ganfuse.kernels.modulated_conv2d.triton")
        factors = None
        if demodulate:
            if x.dtype == torch.float16:
                weight, styles = prenormalize(weight, styles)
            factors = demodulation(weight, styles)
        if not geometry.flip_weight:
            weight = weight.flip(2, 3)
        return cast(
            Tensor,
            without_autocast(kernels.forward, attributes, geometry.padding, x, weight, styles, factors, noise, b),
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.composed = inputs[3]
        ctx.save_for_backward(*inputs[4:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        saved = ctx.saved_tensors
        weights = (False, True, False, False, True)
        needs = gradients_wanted(ctx, saved, ctx.needs_input_grad[4:], weights)
        return (None,) * 4 + without_autocast(_gradients, ctx.composed, saved, needs, grad)


def _gradients(
    composed: Composed, inputs: tuple[Tensor | None, ...], needs: tuple[bool, ...], grad: Tensor
) -> tuple[Tensor | None, ...]:
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases cut the graph: styles that x was computed from must not be differentiated through twice.
        aliases = [
            t if t is None else (t.view_as(t) if again and t.requires_grad else t.detach().requires_grad_(needed))
            for t, needed in zip(inputs, needs)
        ]
        output = composed(*aliases)
        wanted = [cast(Tensor, a) for a, needed in zip(aliases, needs) if needed]
        gradients = iter(torch.autograd.grad(output, wanted, grad, create_graph=again) if wanted else ())
    return tuple(next(gradients) if needed else None for needed in needs)
