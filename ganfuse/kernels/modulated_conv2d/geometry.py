"""Where a call's convolution looks."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ganfuse.kernels.conv2d_resample import total_padding
from ganfuse.kernels.upfirdn2d.geometry import Padding, filter_size


class Geometry(NamedTuple):
    """Factors and padding, as `ganfuse.kernels.conv2d_resample` takes them."""

    up: int
    down: int
    padding: Padding
    flip_weight: bool


def output_size(geometry: Geometry, f: Tensor | None, size: Sequence[int], kernel: Sequence[int]) -> tuple[int, int]:
    """Height and width of the result; below 1 where the kernels do not fit into the image."""
    pad = total_padding(f, geometry.up, geometry.down, geometry.padding)
    sides = []
    for length, around, taps, k in zip(
        size, (pad.top + pad.bottom, pad.left + pad.right), filter_size(f), kernel
    ):  # fmt: skip
        length = length * geometry.up + around - (taps - 1 if geometry.up > 1 else 0) - (k - 1)
        if geometry.down > 1:
            length = (length - taps) // geometry.down + 1
        sides.append(length)
    return sides[0], sides[1]
