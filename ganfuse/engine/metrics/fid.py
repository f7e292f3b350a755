"""Fréchet distance between two sets of features; with Inception features it is the FID.

Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
arXiv:1706.08500, section 2.
"""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from ganfuse.engine.metrics.feature_checks import check_features, row_chunks

__all__ = ["Moments", "feature_moments", "frechet_distance", "frechet_distance_of_moments"]

logger = logging.getLogger("ganfuse.metrics")

# Heusel et al. advise 10,000 images for 2048 features.
_IMAGES_PER_FEATURE = 5
_CHUNK = 4096


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of features.

    Attributes:
        mean: float64 (D,).
        covariance: float64 (D, D), with N - 1 in the denominator.
        count: N.
    """

    mean: Tensor
    covariance: Tensor
    count: int


def feature_moments(features: Tensor) -> Moments:
    """Mean and unbiased covariance of features (N, D), N ≥ 2, in float64.

    Two passes, the second over centred features: the difference of large squares would lose the small eigenvalues.
    """
    count = len(features)
    mean = torch.stack([chunk.sum(0) for chunk in row_chunks(features, _CHUNK)]).sum(0) / count
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=features.device)
    for chunk in row_chunks(features, _CHUNK):
        centred = chunk - mean
        covariance.addmm_(centred.t(), centred)
    return Moments(mean, covariance / (count - 1), count)


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½): 0 for equal Gaussians, in squared units of the features.

    The estimate is biased upwards, the more the fewer images: compare distances at equal counts only. A warning is
    logged below five images per feature.

    Args:
        real, fake: float (N, D) and (M, D), with at least two rows each.

    Raises:
        ValueError: for other shapes, and values that are not finite.
    """
    check_features(real, fake)
    fewest, size = min(len(real), len(fake)), real.shape[1]
    if fewest < _IMAGES_PER_FEATURE * size:
        logger.warning(
            "the Fréchet distance of %d features from %d images is biased upwards; take at least %d",
            size,
            fewest,
            _IMAGES_PER_FEATURE * size,
        )
    return frechet_distance_of_moments(feature_moments(real), feature_moments(fake))


def frechet_distance_of_moments(real: Moments, fake: Moments) -> float:
    """The same from means and covariances, for sets whose features are not kept."""
    # With Σ = FFᵀ the eigenvalues of Σ₁Σ₂ are the squares of the singular values of F₁ᵀF₂: what is zero stays zero,
    # where the square root of an eigenvalue that rounding made 1e-16 would add 1e-8, for each feature.
    overlap = _factor(real.covariance).t() @ _factor(fake.covariance)
    root_trace = torch.linalg.svdvals(overlap).sum() if overlap.numel() else overlap.new_zeros(())
    means = (real.mean - fake.mean).square().sum()
    traces = real.covariance.trace() + fake.covariance.trace()
    return max(float(means + traces - 2.0 * root_trace), 0.0)


def _factor(covariance: Tensor) -> Tensor:
    """F (D, rank) with FFᵀ = covariance."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1].clamp(min=0.0) * len(values) * torch.finfo(values.dtype).eps
    factor: Tensor = vectors[:, kept] * values[kept].sqrt()
    return factor
