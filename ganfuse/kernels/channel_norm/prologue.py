"""What a norm can do besides normalising: noise, and a prologue of bias and activation. The arguments, checked."""

import math
from typing import NamedTuple

from torch import Tensor

from ganfuse.kernels.checks import check_tensor, has_shape
from ganfuse.kernels.precision import SUPPORTED_DTYPES

ACTIVATIONS = ("none", "relu", "leaky_relu", "silu")


class Prologue(NamedTuple):
    """What happens to x before its statistics are taken: ``activation(x + noise · noise_strength + bias)``.

    The first half of StyleGAN's epilogue (Karras et al. 2019, arXiv:1812.04948, figure 1b, and the authors' code):
    noise, bias, leaky ReLU, then instance normalisation and style.

    Attributes:
        noise: one map for all channels, (B, 1, H, W), or (1, 1, H, W) for all samples too; None for no noise. (For x
            with other than two dimensions of positions, those of x.)
        noise_strength: (C,), given if and only if noise is.
        bias: (C,) or None.
        activation: ``"none"``, ``"relu"``, ``"leaky_relu"`` (with `negative_slope`) or ``"silu"``.
    """

    noise: Tensor | None = None
    noise_strength: Tensor | None = None
    bias: Tensor | None = None
    activation: str = "none"
    negative_slope: float = 0.2


def check_activation(op: str, activation: str, negative_slope: float, *, of: str = "") -> None:
    """Raise ValueError for an activation that is none, or a slope that is no finite number."""
    if activation not in ACTIVATIONS:
        known = ", ".join(map(repr, ACTIVATIONS))
        raise ValueError(f"{op}: {of}activation must be one of {known}, got {activation!r}")
    if not isinstance(negative_slope, int | float) or not math.isfinite(negative_slope):
        raise ValueError(f"{op}: {of}negative_slope must be a finite number, got {negative_slope!r}")


def is_parameter(value: object, x: Tensor, *, per_sample: bool = True) -> bool:
    """Whether `value` is a tensor (C,), or (B, C) if `per_sample`, on x's device."""
    if not isinstance(value, Tensor) or value.dtype not in SUPPORTED_DTYPES or value.device != x.device:
        return False
    # Ranks first: (B, C) with (C,) would ask whether B = C, and an export whose batch is dynamic may not ask that.
    shape = value.shape
    if len(shape) == 1:
        return shape[0] == x.shape[1]
    return per_sample and len(shape) == 2 and shape == x.shape[:2]


def check_parameter(
    op: str, name: str, value: object, x: Tensor, *, per_sample: bool = True, required: bool = False
) -> None:
    """Raise ValueError unless `value` is (C,), (B, C) if `per_sample`, or None if not `required`; on x's device."""
    if value is None and not required:
        return
    if is_parameter(value, x, per_sample=per_sample):
        return
    batch, channels = x.shape[:2]
    shapes = ((channels,), (batch, channels)) if per_sample else ((channels,),)
    if value is None:
        raise ValueError(f"{op}: {name} must be a tensor of shape {' or '.join(map(str, shapes))}, got None")
    check_tensor(op, name, value)
    assert isinstance(value, Tensor)
    if not has_shape(value, *shapes):
        expected = " or ".join(map(str, shapes))
        raise ValueError(f"{op}: {name} must have shape {expected} for x of {tuple(x.shape)}, got {tuple(value.shape)}")
    if value.device != x.device:
        raise ValueError(f"{op}: {name} must be on x's device, {x.device}, got {value.device}")


def check_noise(op: str, noise: object, strength: object, x: Tensor, *, of: str = "") -> None:
    """Raise ValueError unless there is neither, or a map of one channel and a strength (C,), on x's device."""
    if noise is None:
        if strength is not None:
            raise ValueError(f"{op}: {of}noise_strength is given, so {of}noise must be a tensor, got None")
        return
    check_tensor(op, f"{of}noise", noise)
    assert isinstance(noise, Tensor)
    shapes = ((x.shape[0], 1, *x.shape[2:]), (1, 1, *x.shape[2:]))
    if x.ndim < 3 or tuple(noise.shape) not in shapes:
        expected = " or ".join(map(str, dict.fromkeys(shapes)))
        said = f"must have shape {expected} for x of {tuple(x.shape)}" if x.ndim >= 3 else "needs x with positions"
        raise ValueError(f"{op}: {of}noise {said}, got {tuple(noise.shape)}")
    if noise.device != x.device:
        raise ValueError(f"{op}: {of}noise must be on x's device, {x.device}, got {noise.device}")
    check_parameter(op, f"{of}noise_strength", strength, x, per_sample=False, required=True)


def check_prologue(op: str, prologue: object, noise: object, x: Tensor) -> None:
    """Raise ValueError for a prologue that does not fit x, or one beside noise after the affine map."""
    if prologue is None:
        return
    if not isinstance(prologue, Prologue):
        raise ValueError(f"{op}: prologue must be a Prologue or None, got {type(prologue).__name__}")
    if noise is not None:
        raise ValueError(f"{op}: noise must be None beside a prologue, which has its own, got a tensor")
    check_noise(op, prologue.noise, prologue.noise_strength, x, of="prologue.")
    check_parameter(op, "prologue.bias", prologue.bias, x, per_sample=False)
    check_activation(op, prologue.activation, prologue.negative_slope, of="prologue.")
