"""The public function: checks, choice of the backend, and the differentiable op behind it."""

import torch
from torch import Tensor

from ganfuse.kernels.autograd import DifferentiableOp
from ganfuse.kernels.backend import INTERPRETED, resolve_backend
from ganfuse.kernels.checks import check_nonempty, check_tensor
from ganfuse.kernels.lazy_implementations import LazyImplementations
from ganfuse.kernels.minibatch_stddev import reference
from ganfuse.kernels.minibatch_stddev.allocation import Attributes


def minibatch_stddev(
    x: Tensor, group_size: int | None = 4, num_channels: int = 1, *, backend: str | None = None
) -> Tensor:
    """`x` with the standard deviation within groups of samples appended as constant channels.

    Karras et al. 2018, "Progressive Growing of GANs", section 3, in groups as StyleGAN2-ADA forms them: with n groups,
    sample i belongs to group i mod n. The standard deviation over the group's samples, ``sqrt(var + 1e-8)`` with the
    biased variance, is averaged over positions and over the channels of a feature (there are `num_channels`, of
    consecutive channels). Twice differentiable with fused kernels, any number of times through the reference.

    Args:
        x: (B, C, H, W).
        group_size: samples in a group; a batch that it does not divide is split into groups of its largest divisor
            below. None: the whole batch is one group.
        num_channels: channels to append; divides C.
        backend: ``"auto"``, ``"reference"`` or ``"triton"``; None follows `ganfuse.use_backend`.

    Returns:
        (B, C + num_channels, H, W) in x's type and layout (NCHW or channels_last).

    Raises:
        ValueError: arguments out of range, x has no channels or positions, or `backend` cannot run here.
    """
    op = "minibatch_stddev"
    check_tensor(op, "x", x, ndim=4)
    check_nonempty(op, "x", x)
    if group_size is not None and (group_size < 1 or int(group_size) != group_size):
        raise ValueError(f"{op}: group_size must be a positive whole number or None, got {group_size!r}")
    if num_channels < 1 or x.shape[1] % num_channels:
        raise ValueError(f"{op}: num_channels must divide x's {x.shape[1]} channels, got {num_channels}")
    batch = x.shape[0]
    group = min(batch, batch if group_size is None else group_size)
    while group > 1 and batch % group:
        group -= 1
    chosen = resolve_backend(op, backend, x.device, triton=lambda: _triton_unsupported(x))
    if chosen == "reference":
        return reference.minibatch_stddev(x, group, num_channels)
    return _minibatch_stddev(Attributes(max(group, 1), num_channels, chosen), x)


def _triton_unsupported(x: Tensor) -> str | None:
    """Why the kernels do not take this call; None if they do. Asked while Dynamo traces, too: no import of Triton."""
    if x.dtype == torch.float64 and not INTERPRETED:
        return "float64 is left to the reference"
    return None


def _reference(attributes: Attributes, x: Tensor) -> Tensor:
    return reference.minibatch_stddev(x, attributes.group, attributes.num_channels)


_minibatch_stddev = DifferentiableOp(
    "minibatch_stddev",
    ("x",),
    Attributes,
    LazyImplementations("ganfuse.kernels.minibatch_stddev"),
    _reference,
    num_state=1,
    num_notes=1,
    keeps_output=False,
)
