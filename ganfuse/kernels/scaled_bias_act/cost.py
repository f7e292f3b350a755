"""Least traffic of a call on `numel` elements of `itemsize` bytes; there is no tensor-core arithmetic.

Scales and biases are a share of 1/(H·W) or less of this, and left out; `noise_numel` float32 numbers of noise are not.
"""

from ganfuse.kernels.bias_act.allocation import CURVED
from ganfuse.kernels.cost import Cost

_NOISE_BYTES = 4


def forward(numel: int, itemsize: int, act: str, noise_numel: int = 0) -> Cost:
    """Reads x; writes y."""
    return Cost(2 * numel * itemsize + noise_numel * _NOISE_BYTES, 0, numel if act in CURVED else 0)


def backward(numel: int, itemsize: int, act: str, noise_numel: int = 0) -> Cost:
    """Reads x and grad_output; writes the gradient of x, and sums it for the others in the same pass."""
    return Cost(3 * numel * itemsize + 2 * noise_numel * _NOISE_BYTES, 0, numel if act in CURVED else 0)


def double_backward(numel: int, itemsize: int, act: str, noise_numel: int = 0) -> Cost:
    """Reads x, grad_output and a cotangent; writes the gradients of grad_output and x."""
    noise = (3 if act in CURVED else 2) * noise_numel * _NOISE_BYTES
    return Cost(5 * numel * itemsize + noise, 0, numel if act in CURVED else 0)
