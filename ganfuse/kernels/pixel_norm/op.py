"""The public function: checks, choice of the backend, and the differentiable op behind it."""

import torch
from torch import Tensor

from ganfuse.kernels.autograd import DifferentiableOp
from ganfuse.kernels.backend import INTERPRETED, resolve_backend
from ganfuse.kernels.checks import check_nonempty, check_tensor
from ganfuse.kernels.lazy_implementations import LazyImplementations
from ganfuse.kernels.pixel_norm import eager, reference
from ganfuse.kernels.pixel_norm.allocation import Attributes


def pixel_norm(x: Tensor, *, eps: float = 1e-8, backend: str | None = None) -> Tensor:
    """``x / sqrt(mean over channels of x² + eps)`` at every pixel.

    Karras et al. 2018, "Progressive Growing of GANs for Improved Quality, Stability, and Variation", section 4.2. Twice
    differentiable with fused kernels, any number of times through the reference.

    Args:
        x: (B, C, ...): feature maps, or latent vectors (B, C).
        eps: added to the mean square; more than 0.
        backend: ``"auto"``, ``"reference"``, ``"eager"`` or ``"triton"``; None follows `ganfuse.use_backend`.

    Returns:
        x's shape, type and layout (NCHW or channels_last).

    Raises:
        ValueError: x has fewer than 2 dimensions or no channels, `eps` is not positive, or `backend` cannot run here.
    """
    op = "pixel_norm"
    check_tensor(op, "x", x, least_ndim=2)
    check_nonempty(op, "x", x)
    if not eps > 0:
        raise ValueError(f"{op}: eps must be more than 0, got {eps!r}")
    chosen = resolve_backend(
        op, backend, x.device, triton=lambda: _triton_unsupported(x), eager=lambda: eager.unsupported(x)
    )
    if chosen == "reference":
        return reference.pixel_norm(x, eps)
    return _pixel_norm(Attributes(float(eps), chosen), x)


def _triton_unsupported(x: Tensor) -> str | None:
    """Why the kernels do not take this call; None if they do. Asked while Dynamo traces, too: no import of Triton."""
    if x.dtype == torch.float64 and not INTERPRETED:
        return "float64 is left to the reference"
    return None


def _reference(attributes: Attributes, x: Tensor) -> Tensor:
    return reference.pixel_norm(x, attributes.eps)


_pixel_norm = DifferentiableOp(
    "pixel_norm",
    ("x",),
    Attributes,
    LazyImplementations("ganfuse.kernels.pixel_norm", eager=eager.IMPLEMENTATION),
    _reference,
    num_state=1,
    num_notes=1,
    keeps_output=False,
)
