"""Least traffic of a call on `numel` elements of `itemsize` bytes; there is no tensor-core arithmetic.

Biases and their gradients are a share of 1/(B·H·W) of this, and left out.
"""

from ganfuse.kernels.bias_act.allocation import CURVED
from ganfuse.kernels.cost import Cost


def forward(numel: int, itemsize: int, act: str) -> Cost:
    """Reads x; writes y."""
    return Cost(2 * numel * itemsize, 0, numel if act in CURVED else 0)


def backward(numel: int, itemsize: int, act: str) -> Cost:
    """Reads x and grad_output; writes the gradient of x, and sums it for that of the bias in the same pass."""
    return Cost(3 * numel * itemsize, 0, numel if act in CURVED else 0)


def double_backward(numel: int, itemsize: int, act: str) -> Cost:
    """Reads x and a cotangent, writes the gradient of grad_output; curved activations read that too, and write x's."""
    maps = 5 if act in CURVED else 3
    return Cost(maps * numel * itemsize, 0, numel if act in CURVED else 0)
