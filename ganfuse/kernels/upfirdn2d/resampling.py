"""Filtering, upsampling and downsampling with the padding that keeps the image where it is."""

from collections.abc import Sequence

from torch import Tensor

from ganfuse.kernels.upfirdn2d.geometry import Factors, Padding, filter_size, parse_factors, parse_padding
from ganfuse.kernels.upfirdn2d.op import check_filter, check_gain, upfirdn2d

_SAME = Factors(1, 1)


def filter2d(
    x: Tensor,
    f: Tensor | None,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    *,
    backend: str | None = None,
) -> Tensor:
    """`x` filtered, in its size.

    Signature and meaning of StyleGAN2-ADA's function of this name, as are those of `upsample2d` and `downsample2d`
    (Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data"). Pixels beyond the image are 0.

    Args:
        x, f, flip_filter, gain, backend: see `upfirdn2d`.
        padding: added to that which keeps the size: an integer, [x, y] or [x0, x1, y0, y1].

    Returns:
        (B, C, H + sum of the vertical padding, W + sum of the horizontal padding).

    Raises:
        ValueError: as `upfirdn2d`.
    """
    op = "filter2d"
    check_filter(op, f)
    rows, columns = filter_size(f)
    around = _plus(parse_padding(op, padding), (columns // 2, (columns - 1) // 2, rows // 2, (rows - 1) // 2))
    return upfirdn2d(x, f, padding=around, flip_filter=flip_filter, gain=gain, backend=backend)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    *,
    backend: str | None = None,
) -> Tensor:
    """`x` enlarged `up` times, interpolated by the filter; a constant image keeps its value if the filter sums to 1.

    Args:
        x, f, flip_filter, backend: see `upfirdn2d`.
        up: factor, or [x, y].
        padding: of the result, added to that which makes it `up` times as large: see `filter2d`.
        gain: factor of the values, besides that of up.x · up.y which makes up for the zeros that were inserted.

    Returns:
        (B, C, H·up.y + sum of the vertical padding, W·up.x + sum of the horizontal padding).

    Raises:
        ValueError: as `upfirdn2d`.
    """
    op = "upsample2d"
    check_filter(op, f)
    factors = parse_factors(op, "up", up)
    rows, columns = filter_size(f)
    around = _plus(
        parse_padding(op, padding),
        (
            (columns + factors.x - 1) // 2,
            (columns - factors.x) // 2,
            (rows + factors.y - 1) // 2,
            (rows - factors.y) // 2,
        ),
    )
    check_gain(op, gain)
    whole = gain * factors.x * factors.y
    return upfirdn2d(x, f, up=factors, padding=around, flip_filter=flip_filter, gain=whole, backend=backend)


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    *,
    backend: str | None = None,
) -> Tensor:
    """`x` filtered, and every `down`-th pixel of that.

    Args:
        x, f, flip_filter, gain, backend: see `upfirdn2d`.
        down: factor, or [x, y].
        padding: of `x`, added to that which makes the result as large as `x` divided by `down`: see `filter2d`.

    Returns:
        (B, C, H/down.y, W/down.x) without padding, where `down` divides the sizes.

    Raises:
        ValueError: as `upfirdn2d`.
    """
    op = "downsample2d"
    check_filter(op, f)
    factors = parse_factors(op, "down", down)
    rows, columns = filter_size(f)
    around = _plus(
        parse_padding(op, padding),
        (
            (columns - factors.x + 1) // 2,
            (columns - factors.x) // 2,
            (rows - factors.y + 1) // 2,
            (rows - factors.y) // 2,
        ),
    )
    return upfirdn2d(x, f, down=factors, padding=around, flip_filter=flip_filter, gain=gain, backend=backend)


def _plus(padding: Padding, more: tuple[int, int, int, int]) -> Padding:
    return Padding(*(a + b for a, b in zip(padding, more)))
