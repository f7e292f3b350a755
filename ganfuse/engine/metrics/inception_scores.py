"""Inception Score, from the class probabilities of any classifier.

Salimans et al. 2016, "Improved Techniques for Training GANs", arXiv:1606.03498, section 4.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ganfuse.engine.metrics.feature_checks import check_positive

__all__ = ["InceptionScore", "inception_score"]


class InceptionScore(NamedTuple):
    """Mean and standard deviation over splits (of the values, with their number in the denominator)."""

    mean: float
    std: float


def inception_score(probabilities: Tensor, *, splits: int = 10) -> InceptionScore:
    """exp of the mean KL divergence of p(class | image) from p(class), per split: from 1 to the number of classes.

    Args:
        probabilities: float (N, K), rows that sum to 1, of images in random order.
        splits: consecutive parts of (nearly) equal size, each with a p(class) of its own. 10 in the paper.

    Raises:
        ValueError: for another shape, rows that are no probabilities, and fewer images than splits.
    """
    check_positive(splits=splits)
    if probabilities.ndim != 2 or not probabilities.is_floating_point():
        got = f"{probabilities.dtype} {tuple(probabilities.shape)}"
        raise ValueError(f"probabilities: expected float (N, K), got {got}")
    if len(probabilities) < splits:
        raise ValueError(f"splits: expected at most the number of images, {len(probabilities)}, got {splits}")
    chances = probabilities.double()
    sums = chances.sum(1)
    if not bool(((chances >= 0).all(1) & ((sums - 1.0).abs() < 1e-3)).all()):
        raise ValueError("probabilities: expected rows of values from 0 to 1 that sum to 1")
    chances = chances / sums[:, None]
    scores = []
    for part in chances.tensor_split(splits):
        marginal = part.mean(0)
        # xlogy(0, 0) is 0, as the limit is; a class that no image of the part has at all contributes nothing.
        divergence = (torch.xlogy(part, part) - torch.xlogy(part, marginal)).sum(1)
        scores.append(divergence.mean().exp())
    found = torch.stack(scores)
    return InceptionScore(float(found.mean()), float(found.std(correction=0)))
