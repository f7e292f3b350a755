"""Least traffic and arithmetic of a layer without resampling, of `positions` pixels a sample in and out."""

from ganfuse.kernels.cost import Cost


def forward(batch: int, inputs: int, outputs: int, positions: int, taps: int, itemsize: int) -> Cost:
    """Reads x and the weight, writes y. Styles, demodulation, noise and bias are 1/C of this, and left out."""
    moved = itemsize * (batch * positions * (inputs + outputs) + outputs * inputs * taps)
    return Cost(moved, 2 * batch * positions * outputs * inputs * taps)


def backward(batch: int, inputs: int, outputs: int, positions: int, taps: int, itemsize: int) -> Cost:
    """Reads x, y before its epilogue, grad_output and the weight; writes the gradients of x and of the weight."""
    moved = itemsize * (batch * positions * (2 * inputs + 2 * outputs) + 2 * outputs * inputs * taps)
    return Cost(moved, 4 * batch * positions * outputs * inputs * taps)
