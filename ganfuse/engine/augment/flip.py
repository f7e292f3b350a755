"""Mirroring left to right."""

import torch
from torch import Tensor

from ganfuse.engine.augment.checks import check_probability
from ganfuse.engine.draws import Draws
from ganfuse.engine.noise import Noise


def horizontal_flip(
    images: Tensor, *, probability: float = 0.5, generator: torch.Generator | Noise | None = None
) -> Tensor:
    """Each image mirrored left to right with the given probability.

    Args:
        images: ``(B, C, H, W)`` of any type. For pairs that must be mirrored together, concatenate their channels.
        probability: for each image.
        generator: of the random numbers, see `Draws`.

    Raises:
        ValueError: another shape, or no probability.
    """
    if images.ndim != 4:
        raise ValueError(f"images: expected (B, C, H, W), got shape {tuple(images.shape)}")
    check_probability("probability", probability)
    mirrored = Draws(images, generator, torch.float32).uniform() < probability
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
