"""Least traffic and arithmetic of a call that reads `read` and writes `written` elements of `itemsize` bytes.

The filter is nothing beside them. The adjoint costs the same, read and written exchanged.
"""

import math

from ganfuse.kernels.cost import Cost


def forward(read: int, written: int, itemsize: int, taps: tuple[int, int], up: tuple[int, int]) -> Cost:
    """Reads x, writes y; a multiply-add for every tap over a pixel that was not inserted, none on the tensor cores.

    Args:
        taps: rows and columns of the filter. up: factors (x, y).
    """
    per_output = taps[0] * taps[1] / (up[0] * up[1])
    return Cost((read + written) * itemsize, math.ceil(2 * per_output * written))


def backward(read: int, written: int, itemsize: int, taps: tuple[int, int], up: tuple[int, int]) -> Cost:
    """Reads the gradient of y, writes that of x: the same numbers, whichever way they flow."""
    return forward(read, written, itemsize, taps, up)
