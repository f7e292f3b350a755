"""The function: checks, choice of the backend, and the differentiable op behind it."""

import math

import torch
from torch import Tensor

from ganfuse.kernels.autograd import DifferentiableOp
from ganfuse.kernels.backend import INTERPRETED, resolve_backend
from ganfuse.kernels.bias_act.eager import unsupported
from ganfuse.kernels.bias_act.op import check_activation
from ganfuse.kernels.bias_act.reference import ACTIVATIONS
from ganfuse.kernels.checks import check_beside, check_tensor
from ganfuse.kernels.lazy_implementations import LazyImplementations
from ganfuse.kernels.scaled_bias_act import eager, reference
from ganfuse.kernels.scaled_bias_act.allocation import Attributes


def scaled_bias_act(
    x: Tensor,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
    b: Tensor | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """``clamp(gain · act(scale[b, c] · x + noise + b[c]))`` in one pass: what surrounds a modulated convolution.

    With a scale alone, the modulation of its input; with all, demodulation, noise, bias and activation of its output
    (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", figure 2c). Twice differentiable with
    one pass each (sums of partial results apart), any number of times through the reference.

    Args:
        x: (B, C, H, W), NCHW or channels_last; the result has its layout.
        scale: (B, C), in x's type or float32.
        noise: (B, 1, H, W) or (1, 1, H, W), in x's type or float32.
        b: (C,), in x's type or float32.
        act, alpha, gain, clamp: as in `ganfuse.kernels.bias_act`.
        backend: ``"auto"``, ``"reference"``, ``"eager"`` or ``"triton"``; None follows `ganfuse.use_backend`.

    Returns:
        x's shape, type and layout.

    Raises:
        ValueError: `act` is unknown, shapes, types or devices do not fit, or `backend` cannot run here.
    """
    op = "scaled_bias_act"
    check_tensor(op, "x", x, ndim=4)
    batch, channels, height, width = x.shape
    _check_small(op, "scale", scale, x, ((batch, channels),))
    _check_small(op, "noise", noise, x, ((batch, 1, height, width), (1, 1, height, width)))
    _check_small(op, "b", b, x, ((channels,),))
    attributes = make_attributes(op, act, alpha, gain, clamp)
    chosen = resolve_backend(
        op,
        backend,
        x.device,
        triton=lambda: triton_unsupported(x),
        eager=lambda: unsupported(attributes.act, attributes.gain, x),
    )
    if chosen == "reference":
        return _reference(attributes, x, scale, noise, b)
    return _scaled_bias_act(attributes._replace(backend=chosen), x, scale, noise, b)


def make_attributes(op: str, act: str, alpha: float | None, gain: float | None, clamp: float | None) -> Attributes:
    """The attributes of a call without its backend, checked, the defaults of the activation filled in."""
    check_activation(op, act, clamp)
    spec = ACTIVATIONS[act]
    return Attributes(
        act,
        spec.alpha if alpha is None else float(alpha),
        spec.gain if gain is None else float(gain),
        -1.0 if clamp is None or clamp == math.inf else float(clamp),
        "",
    )


def _check_small(op: str, name: str, t: Tensor | None, x: Tensor, shapes: tuple[tuple[int, ...], ...]) -> None:
    if t is None:
        return
    check_beside(op, name, t, x)
    if tuple(t.shape) not in shapes:
        expected = " or ".join(dict.fromkeys(map(str, shapes)))
        raise ValueError(f"{op}: {name} must have shape {expected} for x of {tuple(x.shape)}, got {tuple(t.shape)}")


def triton_unsupported(x: Tensor) -> str | None:
    """Why the kernels do not take this call; None if they do. Asked while Dynamo traces, too: no import of Triton."""
    if x.dtype == torch.float64 and not INTERPRETED:
        return "float64 is left to the reference"
    if x.shape[0] * x.shape[1] >= 2**31 or x.shape[2] * x.shape[3] >= 2**31:
        return "B·C or H·W is 2^31 or more"
    return None


def _reference(attributes: Attributes, x: Tensor, *small: Tensor | None) -> Tensor:
    scale, noise, b = small
    return reference.scaled_bias_act(x, scale, noise, b, *attributes.definition())


_scaled_bias_act = DifferentiableOp(
    "scaled_bias_act",
    ("x", "scale", "noise", "b"),
    Attributes,
    LazyImplementations("ganfuse.kernels.scaled_bias_act", eager=eager.IMPLEMENTATION),
    _reference,
    num_state=1,
    num_notes=0,
    optional=("scale", "noise", "b"),
    weights={"b": 1},
    keeps_output=False,
)
