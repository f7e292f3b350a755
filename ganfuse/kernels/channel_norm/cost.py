"""Least traffic of the norms: T bytes are one pass over the map, batch · channels · positions · itemsize.

The (B, C) numbers between the passes are left out: they are less than 1 % of T from 32×32 on.
"""

from ganfuse.kernels.cost import Cost


def _cost(passes: int, batch: int, channels: int, positions: int, itemsize: int, exps: int) -> Cost:
    elements = batch * channels * positions
    return Cost(bytes=passes * elements * itemsize, flops=0, exps=exps * elements)


def forward(
    batch: int, channels: int, positions: int, itemsize: int, *, activation: str = "none", given: bool = False
) -> Cost:
    """3T: read x for the statistics (not where they are given), read x, write y."""
    return _cost(2 if given else 3, batch, channels, positions, itemsize, activation == "silu")


def backward(batch: int, channels: int, positions: int, itemsize: int, *, activation: str = "none") -> Cost:
    """5T: read x and dy for the sums; read x and dy, write dx."""
    return _cost(5, batch, channels, positions, itemsize, 2 * (activation == "silu"))


def double_backward(batch: int, channels: int, positions: int, itemsize: int, *, activation: str = "none") -> Cost:
    """8T: read x, dy and the cotangent of dx for the sums; read the three, write ∂dy and ∂x."""
    return _cost(8, batch, channels, positions, itemsize, 4 * (activation == "silu"))
