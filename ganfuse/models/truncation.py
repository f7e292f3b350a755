"""The truncation trick: latents from a narrower distribution than in training, for fidelity at the cost of variety.

Brock et al. 2019 (BigGAN, arXiv 1809.11096), section 3.1: values whose magnitude is above a threshold are drawn again
until none is. The result has the distribution of z given |z| ≤ t. Here each value is mapped to its quantile in that
distribution instead: z ↦ Φ⁻¹(Φ(−t) + Φ(z)·(Φ(t) − Φ(−t))). The distribution is the same, and the same seed gives the
same latents at every threshold, only drawn together.
"""

import torch
from torch import Tensor

__all__ = ["check_truncation", "truncate_normal", "truncate_uniform"]


def check_truncation(threshold: object) -> float:
    """The threshold; ValueError if it is not a positive number."""
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not threshold > 0:
        raise ValueError(f"truncation: expected a number above 0, or None for none, got {threshold!r}")
    return float(threshold)


def truncate_normal(z: Tensor, threshold: float) -> Tensor:
    """Values of N(0, 1) to values of N(0, 1) given |z| ≤ threshold, in their order.

    Args:
        z: of any shape.
        threshold: t > 0; BigGAN's figures go from 2 to 0.04.
    """
    limit = torch.tensor(check_truncation(threshold), dtype=torch.float64, device=z.device)
    below = torch.special.ndtr(-limit)
    # Φ is steep where it is small: the lower half of the distribution keeps its digits, the upper half is its mirror.
    quantile = below + torch.special.ndtr(-z.double().abs()) * (1.0 - 2.0 * below)
    magnitude = (-torch.special.ndtri(quantile)).clamp(torch.zeros_like(limit), limit)
    truncated: Tensor = torch.sign(z) * magnitude
    return truncated.to(z.dtype)


def truncate_uniform(z: Tensor, threshold: float) -> Tensor:
    """Values of U(−1, 1) to values of U(−1, 1) given |z| ≤ threshold, in their order."""
    return z * min(check_truncation(threshold), 1.0)
