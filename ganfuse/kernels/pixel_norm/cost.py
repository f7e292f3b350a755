"""Least traffic of a call on `numel` elements of `itemsize` bytes in `pixels` pixels; no tensor-core arithmetic."""

from ganfuse.kernels.cost import Cost


def forward(numel: int, pixels: int, itemsize: int) -> Cost:
    """Reads x; writes y and a float32 per pixel."""
    return Cost(2 * numel * itemsize + 4 * pixels, 0)


def backward(numel: int, pixels: int, itemsize: int) -> Cost:
    """Reads x, grad_output and a float32 per pixel; writes the gradient and another."""
    return Cost(3 * numel * itemsize + 8 * pixels, 0)


def double_backward(numel: int, pixels: int, itemsize: int) -> Cost:
    """Reads x, grad_output, a cotangent and two float32 per pixel; writes two gradients."""
    return Cost(5 * numel * itemsize + 8 * pixels, 0)
