"""Least traffic of a call on (B, C, H, W) maps of `itemsize` bytes; no tensor-core arithmetic.

The sums per group are a share of 1/1024 of this, and left out.
"""

from ganfuse.kernels.cost import Cost


def forward(batch: int, channels: int, pixels: int, itemsize: int, num_channels: int = 1) -> Cost:
    """Reads x; writes x and the extra channels."""
    return Cost(batch * pixels * (2 * channels + num_channels) * itemsize, 0)


def backward(batch: int, channels: int, pixels: int, itemsize: int, num_channels: int = 1) -> Cost:
    """Reads x and grad_output; writes the gradient."""
    return Cost(batch * pixels * (3 * channels + num_channels) * itemsize, 0)


def double_backward(batch: int, channels: int, pixels: int, itemsize: int, num_channels: int = 1) -> Cost:
    """Reads x and a cotangent; writes the gradients of grad_output and of x."""
    return Cost(batch * pixels * (4 * channels + num_channels) * itemsize, 0)
