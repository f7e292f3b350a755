"""Least traffic and arithmetic of attention: N queries, M keys, d query/key channels, e value channels.

Multiply-adds per (query, key) pair: forward d + e; backward 4d + 3e (two kernels that each recompute the weights, the
deterministic way); double backward 12d + 7e fused, 18d + 7e split by output.
"""

from ganfuse.kernels.cost import Cost


def forward(batch: int, n: int, m: int, d: int, e: int, itemsize: int) -> Cost:
    """Reads q, k, v; writes the output and a float32 log-sum-exp per query."""
    pairs = batch * n * m
    moved = itemsize * batch * (n * d + m * d + m * e + n * e) + 4 * batch * n
    return Cost(bytes=moved, flops=2 * pairs * (d + e), exps=pairs)


def backward(batch: int, n: int, m: int, d: int, e: int, itemsize: int) -> Cost:
    """Reads q, k, v, output, grad_output and the log-sum-exp; writes dq, dk, dv and δ."""
    pairs = batch * n * m
    moved = itemsize * batch * (2 * n * d + 2 * m * d + 2 * m * e + 2 * n * e) + 8 * batch * n
    return Cost(bytes=moved, flops=2 * pairs * (4 * d + 3 * e), exps=2 * pairs)


def double_backward(batch: int, n: int, m: int, d: int, e: int, itemsize: int, *, split: bool = False) -> Cost:
    """Reads q, k, v, output, grad_output, three cotangents and two row vectors; writes four gradients, r and w."""
    pairs = batch * n * m
    moved = itemsize * batch * (3 * n * d + 3 * m * d + 3 * m * e + 3 * n * e) + 16 * batch * n
    per_pair = (18 * d + 7 * e) if split else (12 * d + 7 * e)
    return Cost(bytes=moved, flops=2 * pairs * per_pair, exps=(4 if split else 2) * pairs)
