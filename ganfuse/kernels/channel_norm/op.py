"""Checks, and the choice of the backend and form, of all channel norms."""

import math

import torch
from torch import Tensor

from ganfuse.kernels.backend import resolve_backend
from ganfuse.kernels.channel_norm import algebra, configs, eager, native, reference, small
from ganfuse.kernels.channel_norm.allocation import Attributes, accumulator
from ganfuse.kernels.channel_norm.differentiable import CHANNEL_NORM
from ganfuse.kernels.channel_norm.prologue import Prologue, check_activation, check_parameter
from ganfuse.kernels.channel_norm.running import RunningStatistics, UpdatingAttributes
from ganfuse.kernels.checks import check_nonempty, check_tensor


def check_common(
    op: str,
    x: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    *,
    least_ndim: int,
    eps: float,
    activation: str,
    negative_slope: float,
) -> None:
    """Raise ValueError for what all norms refuse."""
    check_tensor(op, "x", x, least_ndim=least_ndim)
    check_nonempty(op, "x", x)
    if isinstance(eps, Tensor) or not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"{op}: eps must be a finite number of at least 0, got {eps!r}")
    check_activation(op, activation, negative_slope)
    check_parameter(op, "gain", gain, x)
    check_parameter(op, "bias", bias, x)


def normalise(
    op: str,
    attributes: Attributes,
    backend: str | None,
    x: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    rho: Tensor | None = None,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    *,
    noise: Tensor | None = None,
    noise_strength: Tensor | None = None,
    prologue: Prologue | None = None,
    running: RunningStatistics | None = None,
    handed_back: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The normalised x and, of a batch norm, its `moments`; inputs are checked already.

    Args:
        running: to update in a launch of the forward's own, where the backend and the moment allow it.
        handed_back: whether PyTorch's own normalisation has refused the call.
    """
    prologue_bias = None
    if prologue is not None:
        noise, noise_strength, prologue_bias, name, slope = prologue
        attributes = attributes._replace(prologue=name, prologue_slope=float(slope))
    shape = x.shape
    if len(shape) != 4:
        x = x.reshape(*shape[:2], -1, 1)
        noise = None if noise is None else noise.reshape(noise.shape[0], 1, -1, 1)
    if noise is None and prologue is None and not handed_back and not attributes.process_group:
        y = _of_other_small(attributes, backend, x, gain, bias, rho, mean, var, running)
        if y is not None:
            return y.reshape(shape), None
    inputs = (x, gain, bias, rho, mean, var, noise, noise_strength, prologue_bias)
    chosen = resolve_backend(
        op,
        backend,
        x.device,
        triton=lambda: configs.unsupported(attributes, x),
        eager=lambda: eager.unsupported(x),
    )
    if chosen == "reference":
        y, moments = reference.channel_norm(attributes, *inputs), None
        if attributes.kind == "batch":
            moments = _batch_moments(attributes, x)
    else:
        attributes = attributes._replace(backend=chosen)
        if running is not None and chosen == "triton" and running.may_be_written(x):
            attributes = UpdatingAttributes.of(attributes, running)
        y, _, moments = CHANNEL_NORM.with_state(attributes, *inputs)
    return (y if y.shape == shape else y.reshape(shape)), moments


def _of_other_small(
    attributes: Attributes,
    backend: str | None,
    x: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    rho: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    running: RunningStatistics | None,
) -> Tensor | None:
    """The result, of a small call on a CPU that is not as most are, but can be made so; None of others."""
    kind, eps, unbiased = attributes.kind, attributes.eps, attributes.unbiased
    made = small.arranged(kind, x, gain, bias)
    options = attributes.activation, attributes.negative_slope
    if made is None or not small.taken(kind, backend, *made, eps, *options):
        return None
    x, gain, bias = made
    if kind == "batch":
        return native.batch_norm(x, gain, bias, running, eps, *options, checked=True)
    if mean is not None and var is not None:
        return native.evaluated_batch_norm(x, gain, bias, mean, var, eps, *options)
    if rho is not None:
        return native.layer_instance_norm(x, rho, gain, bias, eps, unbiased, *options)
    groups = x.shape[1] if kind == "row" else attributes.groups
    return native.group_norm(x, groups, gain, bias, eps, unbiased, *options)


@torch.no_grad()
def _batch_moments(attributes: Attributes, x: Tensor) -> Tensor:
    wide = x.to(accumulator(x.dtype))
    mean = wide.mean((2, 3))
    squares = (wide - mean[..., None, None]).square().sum((2, 3))
    return algebra.forward(attributes, mean, squares, x.shape[2] * x.shape[3], (x, *(None,) * 5))[1]
