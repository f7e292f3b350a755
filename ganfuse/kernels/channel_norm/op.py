"""Checks, choice of the backend, and the differentiable op behind all channel norms."""

import importlib
import math
from typing import Any

import torch
from torch import Tensor

from ganfuse.kernels.autograd import DifferentiableOp, Implementation
from ganfuse.kernels.backend import current_backend, resolve_backend
from ganfuse.kernels.channel_norm import algebra, configs, eager, native, reference
from ganfuse.kernels.channel_norm.allocation import INPUTS, Attributes, accumulator
from ganfuse.kernels.channel_norm.prologue import Prologue, check_activation
from ganfuse.kernels.channel_norm.running import RunningStatistics, UpdatingAttributes
from ganfuse.kernels.checks import check_nonempty, check_tensor


def check_common(op: str, x: Tensor, *, least_ndim: int, eps: float, activation: str, negative_slope: float) -> None:
    """Raise ValueError for what all norms refuse."""
    check_tensor(op, "x", x, least_ndim=least_ndim)
    check_nonempty(op, "x", x)
    if isinstance(eps, Tensor) or not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"{op}: eps must be a finite number of at least 0, got {eps!r}")
    check_activation(op, activation, negative_slope)


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
) -> tuple[Tensor, Tensor | None]:
    """The normalised x and, of a batch norm, its `moments`; inputs are checked already.

    Args:
        running: to update in a launch of the forward's own, where the backend and the moment allow it.
    """
    shape = x.shape
    prologue_bias = None
    if prologue is not None:
        noise, noise_strength, prologue_bias, name, slope = prologue
        attributes = attributes._replace(prologue=name, prologue_slope=float(slope))
    if x.ndim != 4:
        x = x.reshape(*shape[:2], -1, 1)
        noise = None if noise is None else noise.reshape(noise.shape[0], 1, -1, 1)
    inputs = (x, gain, bias, rho, mean, var, noise, noise_strength, prologue_bias)
    asked = current_backend() if backend is None else backend
    chosen = resolve_backend(
        op,
        backend,
        x.device,
        triton=lambda: configs.unsupported(attributes, x),
        eager=lambda: eager.unsupported(x),
    )
    y = moments = None
    if chosen == "eager" and asked == "auto" and native.takes(attributes, inputs):
        y = native.channel_norm(attributes, inputs)
    if y is None and chosen == "reference":
        y, moments = reference.channel_norm(attributes, *inputs), None
        if attributes.kind == "batch":
            moments = _batch_moments(attributes, x)
    elif y is None:
        attributes = attributes._replace(backend=chosen)
        if running is not None and chosen == "triton" and running.may_be_written(x):
            attributes = UpdatingAttributes.of(attributes, running)
        y, _, moments = _channel_norm.with_state(attributes, *inputs)
    return (y if y.shape == shape else y.reshape(shape)), moments


@torch.no_grad()
def _batch_moments(attributes: Attributes, x: Tensor) -> Tensor:
    wide = x.to(accumulator(x.dtype))
    mean = wide.mean((2, 3))
    squares = (wide - mean[..., None, None]).square().sum((2, 3))
    return algebra.forward(attributes, mean, squares, x.shape[2] * x.shape[3], (x, *(None,) * 5))[1]


def _triton() -> Any:
    # Importing Triton costs half a second, and is impossible on some machines: only who launches pays.
    return importlib.import_module("ganfuse.kernels.channel_norm.triton")


class _Implementations(dict[str, Implementation]):
    """By backend; Triton's on first use."""

    def __missing__(self, backend: str) -> Implementation:
        if backend != "triton":
            raise KeyError(backend)
        self[backend] = _triton().IMPLEMENTATION
        return self[backend]


def _reference(attributes: Attributes, *inputs: Any) -> Tensor:
    return reference.channel_norm(attributes, *inputs)


_channel_norm = DifferentiableOp(
    "channel_norm",
    INPUTS,
    Attributes,
    _Implementations(eager=eager.IMPLEMENTATION),
    _reference,
    num_state=2,
    num_notes=0,
    optional=INPUTS[1:],
    weights={"gain": 1, "bias": 1, "rho": 1, "noise_strength": 1, "prologue_bias": 1},
    keeps_output=False,
)
