"""Least traffic of spectral normalisation: everything is read and written through device memory, little is computed.

A weight of a large model does not stay in a cache between passes: forward reads it three times (Wᵀu, Wv, W/σ).
"""

from ganfuse.kernels.cost import Cost


def forward(parameters: int, vectors: int, itemsize: int, out_itemsize: int, *, n_power_iterations: int = 1) -> Cost:
    """`parameters` elements in all weights, `vectors` in all u and v; no iterations: only Wv and W/σ."""
    reads = 2 * n_power_iterations + 1 if n_power_iterations else 2
    moved = parameters * (reads * itemsize + out_itemsize) + 2 * vectors * itemsize
    return Cost(bytes=moved, flops=2 * parameters * (reads - 1))


def backward(parameters: int, vectors: int, itemsize: int, out_itemsize: int) -> Cost:
    """⟨G, W⟩, then G again and dW."""
    return Cost(bytes=parameters * (2 * out_itemsize + 2 * itemsize) + vectors * 4, flops=5 * parameters)


def double_backward(parameters: int, vectors: int, itemsize: int, out_itemsize: int) -> Cost:
    """⟨H, G⟩ and uᵀHv, then G, H, W again, ∂G and ∂W."""
    return Cost(bytes=parameters * (3 * out_itemsize + 4 * itemsize) + vectors * 8, flops=10 * parameters)
