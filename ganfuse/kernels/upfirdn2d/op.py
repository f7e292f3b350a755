"""The public function: checks, and choice of the backend."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ganfuse.kernels.backend import INTERPRETED, resolve_backend
from ganfuse.kernels.checks import check_nonempty, check_tensor
from ganfuse.kernels.layout import is_channels_last
from ganfuse.kernels.precision import without_autocast
from ganfuse.kernels.upfirdn2d import eager, reference
from ganfuse.kernels.upfirdn2d.autograd import differentiable
from ganfuse.kernels.upfirdn2d.geometry import Sampling, output_size, parse_factors, parse_padding


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    *,
    backend: str | None = None,
) -> Tensor:
    """Upsample, pad, filter and downsample: signature and meaning of StyleGAN2-ADA's operation of this name.

    Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data". In this order: `up` − 1 zeros are
    inserted after each pixel; zeros are put around the image, or it is cropped; it is convolved with the filter, only
    where that fits; every `down`-th pixel is kept, from the first. Each channel by itself. The backward of it is
    such an operation again, so that derivatives of all orders take the same kernels.

    Args:
        x: (B, C, H, W) in float16, bfloat16, float32 or float64, in any memory layout. Autocast leaves its type alone.
        f: float32 filter on x's device, not to be trained: (rows, columns), or (taps,), applied along both axes; None
            for a single 1. `setup_filter` makes them.
        up, down: factor, or [x, y] (the width's first), 1 or more.
        padding: in pixels of the upsampled image: an integer, [x, y] or [x0, x1, y0, y1]; negative numbers crop.
        flip_filter: False: convolution. True: correlation.
        gain: factor of the result, once for both axes.
        backend: ``"auto"``, ``"reference"``, ``"eager"`` or ``"triton"``; None follows `ganfuse.use_backend`.

    Returns:
        (B, C, (H·up.y + y0 + y1 − rows) // down.y + 1, (W·up.x + x0 + x1 − columns) // down.x + 1), in x's type,
        channels_last if x is and else NCHW.

    Raises:
        ValueError: the upsampled and padded image is smaller than the filter, arguments have the wrong shape, type or
            device, `f` requires grad, or `backend` cannot run here.
    """
    op = "upfirdn2d"
    check_tensor(op, "x", x, ndim=4)
    check_nonempty(op, "x", x)
    check_filter(op, f)
    if f is not None and f.device != x.device:
        raise ValueError(f"{op}: f must be on x's device, {x.device}, got {f.device}")
    factors, keep = parse_factors(op, "up", up), parse_factors(op, "down", down)
    around = parse_padding(op, padding)
    check_gain(op, gain)
    size = output_size(op, x, f, factors, keep, around)
    last = is_channels_last(x)
    chosen = resolve_backend(
        op, backend, x.device, triton=lambda: _triton_unsupported(x), eager=lambda: eager.unsupported(x)
    )
    if chosen == "reference":
        y: Tensor = without_autocast(
            reference.upfirdn2d, x, f, factors, keep, around, bool(flip_filter), float(gain)
        )  # fmt: skip
        return y.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    sampling = Sampling(
        *factors, *keep, around.left, around.top, *size, bool(flip_filter), float(gain), last, chosen
    )  # fmt: skip
    return differentiable(sampling, x, f)


def _triton_unsupported(x: Tensor) -> str | None:
    """Why the kernels do not take this call; None if they do. Asked while Dynamo traces, too: no import of Triton."""
    if x.dtype == torch.float64 and not INTERPRETED:
        return "float64 is left to the reference"
    return None


def check_gain(op: str, gain: float) -> None:
    """Raise ValueError unless `gain` is a finite number."""
    if isinstance(gain, bool) or not isinstance(gain, (int, float)) or not -math.inf < gain < math.inf:
        raise ValueError(f"{op}: gain must be a finite number, got {gain!r}")


def check_filter(op: str, f: Tensor | None) -> None:
    """Raise ValueError unless `f` is None or a filter that `upfirdn2d` takes."""
    if f is None:
        return
    if not isinstance(f, Tensor):
        raise ValueError(f"{op}: f must be a tensor or None (setup_filter makes one), got {type(f).__name__}")
    if f.dtype != torch.float32:
        raise ValueError(f"{op}: f must be float32, got {str(f.dtype).removeprefix('torch.')}")
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(f"{op}: f must be (rows, columns) or (taps,), not empty, got shape {tuple(f.shape)}")
    if f.requires_grad:
        raise ValueError(f"{op}: f must not require grad: there is no gradient for filters")
