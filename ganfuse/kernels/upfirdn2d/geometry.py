"""Factors, padding and sizes of resampling, and those of the adjoint.

With F the filter (flipped, unless `flip_filter`), u = o·down + i − pad and x[u / up] = 0 where up does not divide u, on
each of the two axes:

    y[o] = gain · Σ_i F[i] · x[(o·down + i − pad) / up]        o < out,   i < taps

The adjoint inserts the gradients of y in place of x, and so is of the same form:

    dx[n] = gain · Σ_o F[n·up + pad − o·down] · dy[o] = gain · Σ_i F[taps−1−i] · dy[(n·up + i − pad′) / down]

with pad′ = taps − 1 − pad, up and down exchanged, the filter flipped, and as many results as x has elements.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Factors(NamedTuple):
    """Of upsampling or downsampling, along the width and the height."""

    x: int
    y: int


class Padding(NamedTuple):
    """Zeros around the upsampled image; negative: rows and columns that are cut off."""

    left: int
    right: int
    top: int
    bottom: int


class Sampling(NamedTuple):
    """What a call does, besides its tensors: see the formula above.

    Attributes:
        pad_x, pad_y: on the left and at the top. out_x, out_y: width and height of the result.
        channels_last: layout of the result.
        backend: who computes it.
    """

    up_x: int
    up_y: int
    down_x: int
    down_y: int
    pad_x: int
    pad_y: int
    out_x: int
    out_y: int
    flip_filter: bool
    gain: float
    channels_last: bool
    backend: str

    def adjoint(self, x: Tensor, f: Tensor | None) -> "Sampling":
        """What takes gradients of the result to gradients of `x`."""
        rows, columns = filter_size(f)
        return self._replace(
            up_x=self.down_x,
            up_y=self.down_y,
            down_x=self.up_x,
            down_y=self.up_y,
            pad_x=columns - 1 - self.pad_x,
            pad_y=rows - 1 - self.pad_y,
            out_x=x.shape[3],
            out_y=x.shape[2],
            flip_filter=not self.flip_filter,
        )

    def passes(self, x: Tensor) -> tuple["Sampling", "Sampling"]:
        """Two that a filter of one dimension amounts to: along the width, then along the height with the gain."""
        along_x = self._replace(up_y=1, down_y=1, pad_y=0, out_y=x.shape[2], gain=1.0)
        along_y = self._replace(up_x=1, down_x=1, pad_x=0)
        return along_x, along_y


def filter_size(f: Tensor | None) -> tuple[int, int]:
    """Rows and columns of the filter."""
    if f is None:
        return 1, 1
    return f.shape[0], f.shape[-1]


def parse_factors(op: str, name: str, value: int | Sequence[int]) -> Factors:
    """An integer, or [x, y]; ValueError for anything else."""
    numbers = _integers(value)
    if numbers is None or len(numbers) not in (1, 2) or min(numbers) < 1:
        raise ValueError(f"{op}: {name} must be a positive integer or [x, y] of two, got {value!r}")
    return Factors(numbers[0], numbers[-1])


def parse_padding(op: str, value: int | Sequence[int]) -> Padding:
    """An integer, [x, y], or [left, right, top, bottom]; ValueError for anything else."""
    numbers = _integers(value)
    if numbers is None or len(numbers) not in (1, 2, 4):
        raise ValueError(f"{op}: padding must be an integer, [x, y] or [x0, x1, y0, y1], got {value!r}")
    if len(numbers) == 4:
        return Padding(*numbers)
    return Padding(numbers[0], numbers[0], numbers[-1], numbers[-1])


def _integers(value: object) -> list[int] | None:
    numbers = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    integers = [n for n in numbers if isinstance(n, int) and not isinstance(n, bool)]
    return integers if len(integers) == len(numbers) else None


def output_size(op: str, x: Tensor, f: Tensor | None, up: Factors, down: Factors, padding: Padding) -> Factors:
    """Width and height of the result.

    Raises:
        ValueError: the upsampled and padded image is smaller than the filter.
    """
    rows, columns = filter_size(f)
    height = x.shape[2] * up.y + padding.top + padding.bottom
    width = x.shape[3] * up.x + padding.left + padding.right
    if height < rows or width < columns:
        raise ValueError(
            f"{op}: the upsampled and padded image must be at least as large as the filter, {columns}×{rows} "
            f"(width × height), got {width}×{height}"
        )
    return Factors((width - columns) // down.x + 1, (height - rows) // down.y + 1)
