"""The public function: checks, choice of the backend, and the differentiable op behind it."""

import difflib
import math

import torch
from torch import Tensor

from ganfuse.kernels.autograd import DifferentiableOp
from ganfuse.kernels.backend import INTERPRETED, resolve_backend
from ganfuse.kernels.bias_act import eager, reference
from ganfuse.kernels.bias_act.allocation import Attributes
from ganfuse.kernels.checks import check_beside, check_tensor
from ganfuse.kernels.lazy_implementations import LazyImplementations


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """``clamp(gain · act(x + b))`` in one pass: signature and defaults of StyleGAN2-ADA's operation of this name.

    Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data". Twice differentiable with fused
    kernels (the second backward is the first one's kernel again), any number of times through the reference.

    Args:
        x: any shape and any memory layout, which the result keeps.
        b: bias of `x.shape[dim]` elements in x's type or float32, or None.
        dim: the dimension of x that the bias runs along.
        act: ``"linear"``, ``"relu"``, ``"lrelu"``, ``"tanh"``, ``"sigmoid"``, ``"elu"``, ``"selu"``, ``"softplus"`` or
            ``"swish"``.
        alpha: slope of the leaky ReLU for negative values, 0.2 by default; the others have none.
        gain: factor of the activation; by default √2 for relu, lrelu and swish, and 1 otherwise.
        clamp: the result is limited to [-clamp, clamp]; gradients of what lies beyond are 0. None: no limit.
        backend: ``"auto"``, ``"reference"``, ``"eager"`` or ``"triton"``; None follows `ganfuse.use_backend`.

    Returns:
        x's shape, type and layout.

    Raises:
        ValueError: `act` is unknown, shapes, types or devices do not fit, or `backend` cannot run here.
    """
    op = "bias_act"
    check_tensor(op, "x", x)
    check_activation(op, act, clamp)
    if b is not None:
        dim = _check_bias(op, x, b, dim)
    spec = reference.ACTIVATIONS[act]
    attributes = Attributes(
        dim,
        act,
        spec.alpha if alpha is None else float(alpha),
        spec.gain if gain is None else float(gain),
        -1.0 if clamp is None or clamp == math.inf else float(clamp),
        "",
    )
    chosen = resolve_backend(
        op,
        backend,
        x.device,
        triton=lambda: _triton_unsupported(x),
        eager=lambda: eager.unsupported(attributes.act, attributes.gain, x),
    )
    if chosen == "reference":
        return _reference(attributes, x, b)
    if chosen == "eager":
        return eager.bias_act(attributes, x, b)
    return _bias_act(attributes._replace(backend=chosen), x, b)


def check_activation(op: str, act: str, clamp: float | None) -> None:
    """Raise ValueError, with the nearest name, unless there is such an activation and such a clamp."""
    if act not in reference.ACTIVATIONS:
        near = difflib.get_close_matches(str(act), reference.ACTIVATIONS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"{op}: act must be one of {', '.join(reference.ACTIVATIONS)}, got {act!r}{hint}")
    if clamp is not None and not clamp >= 0:
        raise ValueError(f"{op}: clamp must be at least 0 or None, got {clamp!r}")


def _check_bias(op: str, x: Tensor, b: Tensor, dim: int) -> int:
    check_tensor(op, "b", b, ndim=1)
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"{op}: dim must be in [{-x.ndim}, {x.ndim}) for x of shape {tuple(x.shape)}, got {dim}")
    if b.shape[0] != x.shape[dim]:
        raise ValueError(f"{op}: b must have x.shape[{dim}] = {x.shape[dim]} elements, got {b.shape[0]}")
    check_beside(op, "b", b, x)
    return dim % x.ndim


def _triton_unsupported(x: Tensor) -> str | None:
    """Why the kernels do not take this call; None if they do. Asked while Dynamo traces, too: no import of Triton."""
    if x.dtype == torch.float64 and not INTERPRETED:
        return "float64 is left to the reference"
    if x.ndim == 0:
        return "x has no dimensions"
    return None


def _reference(attributes: Attributes, x: Tensor, b: Tensor | None) -> Tensor:
    dim, act, alpha, gain, clamp, _ = attributes
    return reference.bias_act(x, b, dim, act, alpha, gain, None if clamp < 0 else clamp)


_bias_act = DifferentiableOp(
    "bias_act",
    ("x", "b"),
    Attributes,
    LazyImplementations("ganfuse.kernels.bias_act"),
    _reference,
    num_state=1,
    num_notes=0,
    optional=("b",),
    weights={"b": 1},
    keeps_output=False,
)
