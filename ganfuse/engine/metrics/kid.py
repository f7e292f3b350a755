"""Kernel distance between two sets of features; with Inception features it is the KID.

Bińkowski et al. 2018, "Demystifying MMD GANs", arXiv:1801.01401, section 4.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ganfuse.engine.metrics.feature_checks import check_features, check_positive

__all__ = ["KernelDistance", "kernel_distance", "squared_mmd"]


class KernelDistance(NamedTuple):
    """Mean and standard deviation over subsets (of the values, with their number in the denominator)."""

    mean: float
    std: float


def kernel_distance(
    real: Tensor, fake: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """The squared MMD with the kernel (xᵀy/D + 1)³, averaged over random subsets. Unbiased, so it can be below 0.

    Args:
        real, fake: float (N, D) and (M, D), with at least two rows each.
        subsets: how many pairs of subsets.
        subset_size: images of each subset, drawn without replacement. Where there are fewer images, half of them, since
            subsets that hold all would be the same and show no spread.
        seed: of the choice of the subsets.

    Raises:
        ValueError: for other shapes, values that are not finite, and sizes out of range.
    """
    check_positive(subsets=subsets, subset_size=subset_size)
    if subset_size < 2:
        raise ValueError(f"subset_size: expected at least 2, got {subset_size}")
    check_features(real, fake)
    fewest = min(len(real), len(fake))
    size = subset_size if fewest >= subset_size else max(fewest // 2, 2)
    # On the CPU, so that a GPU draws the same subsets.
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        chosen = [torch.randperm(len(x), generator=generator)[:size].to(x.device) for x in (real, fake)]
        values.append(squared_mmd(real[chosen[0]], fake[chosen[1]]))
    found = torch.tensor(values, dtype=torch.float64)
    return KernelDistance(float(found.mean()), float(found.std(correction=0)))


def squared_mmd(real: Tensor, fake: Tensor, *, chunk_size: int = 1024) -> float:
    """The unbiased estimate of the squared MMD with the kernel (xᵀy/D + 1)³, in float64 and O(chunk_size · N) memory.

    Args:
        real, fake: float (N, D) and (M, D), with at least two rows each.
        chunk_size: rows of the kernel matrices that are held at a time.
    """
    check_positive(chunk_size=chunk_size)
    check_features(real, fake)
    real, fake = real.double(), fake.double()
    return float(
        _mean_off_diagonal(real, chunk_size)
        + _mean_off_diagonal(fake, chunk_size)
        - 2.0 * _kernel_sum(real, fake, chunk_size) / (len(real) * len(fake))
    )


def _mean_off_diagonal(features: Tensor, chunk_size: int) -> Tensor:
    count, size = features.shape
    diagonal = (features.square().sum(1) / size + 1.0).pow(3).sum()
    return (_kernel_sum(features, features, chunk_size) - diagonal) / (count * (count - 1))


def _kernel_sum(x: Tensor, y: Tensor, chunk_size: int) -> Tensor:
    parts = [(chunk @ y.t() / x.shape[1]).add_(1.0).pow_(3).sum() for chunk in torch.split(x, chunk_size)]
    return torch.stack(parts).sum()
