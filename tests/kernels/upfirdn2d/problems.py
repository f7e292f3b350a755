"""Calls that between them take every path through the backends."""

import functools
from typing import NamedTuple

import pytest
import torch

from ganfuse.kernels import upfirdn2d
from tests.kernels.derivative_checks import lay_out, numbers

BACKENDS = ("eager", pytest.param("triton", marks=pytest.mark.interpreter))
LAYOUTS = ("nchw", "channels_last", "slice", "transposed")


class Problem(NamedTuple):
    """A call; `taps` is the filter's shape, () for none."""

    taps: tuple[int, ...]
    up: tuple[int, int] = (1, 1)
    down: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    flip_filter: bool = False
    gain: float = 1.0
    shape: tuple[int, int, int, int] = (2, 3, 5, 6)


PROBLEMS = {
    "blur": Problem((4, 4), padding=(2, 1, 2, 1), gain=2.0),
    "up": Problem((4, 4), (2, 2), padding=(2, 1, 2, 1), gain=4.0),
    "up, other phase": Problem((4, 3), (2, 2), padding=(1, 2, -1, 4), flip_filter=True),
    "down": Problem((4, 4), down=(2, 2), padding=(1, 1, 1, 1)),
    "up and down": Problem((3, 4), (2, 2), (2, 2), (3, 1, 2, 2)),
    "one axis": Problem((1, 4), (2, 1), (1, 3), (1, 2, 1, -2)),
    "no filter": Problem((), (2, 1), (1, 2), (1, -1, 0, 1), gain=-0.5),
    "3/2": Problem((5, 3), (3, 2), (2, 3), (2, 2, 3, 1)),
    "up 4": Problem((6,), (4, 4), padding=(3, 2, 3, 2), gain=16.0),
    "separable": Problem((3,), padding=(1, 1, 1, 1), gain=3.0),
    "12 taps": Problem((12,), padding=(6, 5, 7, 4), gain=2.0, flip_filter=True),
    "12 taps down": Problem((12,), (1, 1), (2, 2), (5, 5, 5, 5), gain=-2.0),
    "9 by 9": Problem((9, 9), padding=(4, 4, 4, 4), shape=(1, 2, 3, 4)),
    "cropped": Problem((2, 2), padding=(-2, -1, -1, -2)),
    "nothing but padding": Problem((2, 3), padding=(-7, 9, -6, 8)),
    "one pixel": Problem((4, 4), (2, 2), padding=(2, 1, 2, 1), shape=(2, 2, 1, 1)),
    "one channel": Problem((4, 4), padding=(2, 2, 2, 2), shape=(2, 1, 3, 5)),
    "16 channels": Problem((4, 4), (2, 2), padding=(2, 1, 2, 1), shape=(1, 16, 4, 3)),
    "column": Problem((3, 1), (1, 2), padding=(0, 0, 1, 1), shape=(2, 3, 6, 1)),
}


def call(problem: Problem, backend: str, device: str = "cpu"):
    """The op as a function of x alone."""
    f = numbers(problem.taps, torch.float32, 1).to(device) if problem.taps else None
    return functools.partial(
        upfirdn2d, f=f, up=list(problem.up), down=list(problem.down), padding=list(problem.padding),
        flip_filter=problem.flip_filter, gain=problem.gain, backend=backend,
    )  # fmt: skip


def image(problem: Problem, dtype: torch.dtype = torch.float64, layout: str = "nchw", device: str = "cpu"):
    """x, in that layout, a leaf that requires grad."""
    return lay_out(numbers(problem.shape, torch.float64, 0).to(dtype).to(device), layout)
