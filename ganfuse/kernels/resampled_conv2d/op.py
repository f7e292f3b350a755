"""The public functions: checks, and the choice between the definition and the low-resolution form."""

from torch import Tensor

from ganfuse.kernels.backend import resolve_native_backend
from ganfuse.kernels.checks import check_alike, check_nonempty, check_size, check_tensor
from ganfuse.kernels.precision import arithmetic_dtype
from ganfuse.kernels.resampled_conv2d import eager, reference
from ganfuse.kernels.resampled_conv2d.choice import folds

PADDING_MODES = ("zeros", "reflect")


def upsample_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    padding_mode: str = "zeros",
    form: str | None = None,
    backend: str | None = None,
) -> Tensor:
    """Nearest-neighbour ×2, then a 3×3 (or 1×1) convolution that keeps the size: 16 multiply-adds instead of 36.

    Computed at the low resolution where that is faster (`kernels.resampled_conv2d.choice`): a 3×3 kernel as a
    transposed 4×4 one of stride 2 (derived in `kernels.resampled_conv2d.fold`), a 1×1 kernel before the upsampling. The
    same result but for rounding, borders included. Of native convolutions, hence differentiable to any order, and free
    of weight gradients that nobody waits for.

    Args:
        x: (B, Cin, H, W).
        weight: (Cout, Cin, 3, 3) or (Cout, Cin, 1, 1); or (Cin, Cout, 4, 4) from `fold_upsample_weight`.
        bias: (Cout,) or None.
        padding_mode: of the convolution, at the high resolution: ``"zeros"`` or ``"reflect"``.
        form: ``"auto"``, ``"plain"`` (the definition) or ``"folded"``; None follows the environment variable
            ``GANFUSE_CONV_FORM``.
        backend: ``"reference"`` is the definition, whatever `form` says; ``"auto"`` and ``"eager"`` follow `form`. None
            follows `ganfuse.use_backend`, under whose ``"triton"`` this op runs as under ``"auto"``: it has no kernels
            of its own.

    Returns:
        (B, Cout, 2H, 2W); channels_last if x or the weight is.

    Raises:
        ValueError: shapes, types (but under autocast) or devices do not fit; ``backend="triton"``.
    """
    op = "upsample_conv2d"
    _check(op, x, weight, bias, padding_mode, form, transposed=True)
    native = resolve_native_backend(op, backend) == "eager"
    height, width = x.shape[2:]
    if weight.shape[-1] == 4 or (native and folds(form, x, weight, height, width)):
        return eager.upsample_conv2d(x, weight, bias, padding_mode)
    return reference.upsample_conv2d(x, weight, bias, padding_mode)


def conv2d_downsample(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    padding_mode: str = "zeros",
    form: str | None = None,
    backend: str | None = None,
) -> Tensor:
    """A 3×3 (or 1×1) convolution that keeps the size, then the mean of each 2×2 square: 16 multiply-adds, not 36.

    Computed at the low resolution where that is faster (`kernels.resampled_conv2d.choice`): a 3×3 kernel as a 4×4 one
    of stride 2 (derived in `kernels.resampled_conv2d.fold`), a 1×1 kernel after the mean. The same result but for
    rounding. Of native convolutions, hence differentiable to any order, and free of weight gradients that nobody waits
    for.

    Args:
        x: (B, Cin, H, W) with H and W at least 2; an odd last row or column falls off, as in ``F.avg_pool2d``.
        weight: (Cout, Cin, 3, 3) or (Cout, Cin, 1, 1); or (Cout, Cin, 4, 4) from `fold_downsample_weight`.
        bias: (Cout,) or None.
        padding_mode, form, backend: as in `upsample_conv2d`.

    Returns:
        (B, Cout, H // 2, W // 2); channels_last if x or the weight is.

    Raises:
        ValueError: shapes, types (but under autocast) or devices do not fit; ``backend="triton"``.
    """
    op = "conv2d_downsample"
    _check(op, x, weight, bias, padding_mode, form, transposed=False)
    height, width = x.shape[2:]
    if height < 2 or width < 2:
        raise ValueError(f"{op}: x must have maps of at least 2×2, got shape {tuple(x.shape)}")
    native = resolve_native_backend(op, backend) == "eager"
    if weight.shape[-1] == 4 or (native and folds(form, x, weight, height // 2, width // 2)):
        return eager.conv2d_downsample(x, weight, bias, padding_mode)
    return reference.conv2d_downsample(x, weight, bias, padding_mode)


def _check(
    op: str, x: Tensor, weight: Tensor, bias: Tensor | None, padding_mode: str, form: str | None, *, transposed: bool
) -> None:
    check_tensor(op, "x", x, ndim=4)
    check_nonempty(op, "x", x)
    check_tensor(op, "weight", weight, ndim=4)
    kernel = tuple(weight.shape[2:])
    if kernel not in ((1, 1), (3, 3), (4, 4)):
        raise ValueError(f"{op}: weight must be 1×1, 3×3, or folded to 4×4, got shape {tuple(weight.shape)}")
    folded = kernel == (4, 4)
    if folded and form == "plain":
        raise ValueError(f"{op}: form='plain' needs the weight itself, (Cout, Cin, 3, 3), got a folded one of 4×4")
    inputs, outputs = (0, 1) if folded and transposed else (1, 0)
    check_size(op, f"weight.shape[{inputs}]", weight.shape[inputs], x.shape[1], "x's channels")
    if weight.shape[outputs] == 0:
        raise ValueError(f"{op}: weight must have output channels, got shape {tuple(weight.shape)}")
    if padding_mode not in PADDING_MODES:
        raise ValueError(
            f"{op}: padding_mode must be one of {', '.join(map(repr, PADDING_MODES))}, got {padding_mode!r}"
        )
    tensors = {"x": x, "weight": weight}
    if bias is not None:
        check_tensor(op, "bias", bias, ndim=1)
        check_size(op, "bias.shape[0]", bias.shape[0], weight.shape[outputs], "output channels of weight")
        tensors["bias"] = bias
    # Under autocast the convolution brings them to one type.
    if len({(arithmetic_dtype(tensor), tensor.device) for tensor in tensors.values()}) > 1:
        check_alike(op, **tensors)
