"""Least traffic of the norms: T bytes are one pass over the map, batch · channels · positions · itemsize.

The (B, C) numbers between the passes are left out: they are less than 1 % of T from 32×32 on.
"""

from ganfuse.kernels.cost import Cost


def _cost(passes: int, batch: int, channels: int, positions: int, itemsize: int, exps: int, noise: int = 0) -> Cost:
    elements = batch * channels * positions
    return Cost(bytes=passes * elements * itemsize + noise, flops=0, exps=exps * elements)


def forward(
    batch: int, channels: int, positions: int, itemsize: int, *, activation: str = "none", given: bool = False,
    on_chip: bool = False, prologue: str = "", noise_bytes: int = 0,
) -> Cost:  # fmt: skip
    """3T: read x for the statistics (not where they are given), read x, write y. 2T where rows stay on chip.

    Args:
        prologue: its activation, computed in both passes. noise_bytes: of the noise map, read with x; in a prologue
            for the statistics too.
    """
    once = given or on_chip
    exps = int(activation == "silu") + (1 if on_chip else 2) * (prologue == "silu")
    noise = noise_bytes * (2 if prologue and not once else 1)
    return _cost(2 if once else 3, batch, channels, positions, itemsize, exps, noise)


def backward(
    batch: int, channels: int, positions: int, itemsize: int, *, activation: str = "none",
    on_chip: bool = False, prologue: str = "", noise_bytes: int = 0,
) -> Cost:  # fmt: skip
    """5T: read x and dy for the sums; read x and dy, write dx. 3T where rows stay on chip."""
    curved = (activation == "silu") + (prologue == "silu")
    passes = 1 if on_chip else 2
    return _cost(1 + 2 * passes, batch, channels, positions, itemsize, passes * curved, passes * noise_bytes)


def double_backward(
    batch: int, channels: int, positions: int, itemsize: int, *, activation: str = "none", noise_bytes: int = 0
) -> Cost:
    """8T: read x, dy and the cotangent of dx for the sums; read the three, write ∂dy and ∂x.

    That is the least with noise or a prologue, too; ours, composed, moves several times as much there.
    """
    exps = 4 * (activation == "silu")
    return _cost(8, batch, channels, positions, itemsize, exps, 2 * noise_bytes)
