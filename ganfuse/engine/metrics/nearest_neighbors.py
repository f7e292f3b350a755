"""Precision and recall, density and coverage: scores from the neighbourhoods of features.

Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models", arXiv:1904.06991,
section 2. Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models", arXiv:2002.09797,
section 3. The balls are closed in both.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ganfuse.engine.metrics.feature_checks import check_features, check_positive, row_chunks

__all__ = ["DensityCoverage", "PrecisionRecall", "density_coverage", "precision_recall"]

_CHUNK = 1024


class PrecisionRecall(NamedTuple):
    """Both from 0 to 1.

    Attributes:
        precision: share of the generated images that look like real ones.
        recall: share of the real images that the generator could have drawn.
    """

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Both are expected to be near 1 for two samples of one distribution.

    Attributes:
        density: like precision, but counting in how many neighbourhoods an image lies; can exceed 1.
        coverage: share of the real images with a generated one in their neighbourhood; 0 to 1.
    """

    density: float
    coverage: float


def precision_recall(real: Tensor, fake: Tensor, *, k: int = 3, chunk_size: int = _CHUNK) -> PrecisionRecall:
    """The share of each set that lies within the other one's manifold, in float64 and O(chunk_size · N) memory.

    The manifold of a set is the union of the balls around its members that reach to their k-th nearest neighbours.

    Args:
        real, fake: float (N, D) and (M, D), with more than k rows each.
        k: 3 in the paper.
        chunk_size: rows of the distance matrices that are held at a time.

    Raises:
        ValueError: for other shapes, values that are not finite, and k out of range.
    """
    real, fake = _checked(real, fake, k, chunk_size)
    real_radii = _squared_radii(real, k, chunk_size)
    fake_radii = _squared_radii(fake, k, chunk_size)
    fakes_inside, real_inside = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for some, radii in zip(torch.split(fake, chunk_size), torch.split(fake_radii, chunk_size)):
        distances = _squared_distances(some, real)
        fakes_inside += int((distances <= real_radii).any(1).sum())
        real_inside |= (distances <= radii[:, None]).any(0)
    return PrecisionRecall(fakes_inside / len(fake), float(real_inside.double().mean()))


def density_coverage(real: Tensor, fake: Tensor, *, k: int = 5, chunk_size: int = _CHUNK) -> DensityCoverage:
    """How the generated images fill the neighbourhoods of the real ones; unlike recall, outliers among them do no harm.

    Density is Σ_j Σ_i [fake_j in ball_i] / (k M), coverage the share of the balls that hold a generated image; ball i
    reaches from real image i to its k-th nearest real neighbour.

    Args:
        real, fake: float (N, D) and (M, D), with more than k rows each.
        k: 5 in the paper.
        chunk_size: rows of the distance matrices that are held at a time.

    Raises:
        ValueError: for other shapes, values that are not finite, and k out of range.
    """
    real, fake = _checked(real, fake, k, chunk_size)
    radii = _squared_radii(real, k, chunk_size)
    hits, covered = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for some in torch.split(fake, chunk_size):
        inside = _squared_distances(some, real) <= radii
        hits += int(inside.sum())
        covered |= inside.any(0)
    return DensityCoverage(hits / (k * len(fake)), float(covered.double().mean()))


def _checked(real: Tensor, fake: Tensor, k: int, chunk_size: int) -> tuple[Tensor, Tensor]:
    check_positive(k=k, chunk_size=chunk_size)
    check_features(real, fake)
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"k: expected fewer than the images of each set, {len(real)} and {len(fake)}, got {k}")
    # Distances do not change, and |x|² + |y|² - 2xᵀy loses less where |x| and |y| are small.
    centre = real.double().mean(0)
    return _centred(real, centre, chunk_size), _centred(fake, centre, chunk_size)


def _centred(features: Tensor, centre: Tensor, chunk_size: int) -> Tensor:
    return torch.cat([chunk - centre for chunk in row_chunks(features, chunk_size)])


def _squared_radii(points: Tensor, k: int, chunk_size: int) -> Tensor:
    radii = []
    for start in range(0, len(points), chunk_size):
        some = points[start : start + chunk_size]
        distances = _squared_distances(some, points)
        # A point is not its own neighbour; one that equals it is.
        rows = torch.arange(len(some), device=points.device)
        distances[rows, start + rows] = -1.0
        radii.append(distances.kthvalue(k + 1, dim=1).values)
    return torch.cat(radii)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    squares = x.square().sum(1)[:, None] + y.square().sum(1)
    return squares.addmm_(x, y.t(), alpha=-2.0).clamp_(min=0.0)
