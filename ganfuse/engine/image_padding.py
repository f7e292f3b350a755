"""Images of sizes that a network does not take: padded to the next one that it takes, and its results cropped back."""

import torch
from torch import Tensor

__all__ = ["crop_to", "pad_to_multiple", "padded_side"]


def padded_side(side: int, multiple: int, least: int) -> int:
    """The smallest side that is a multiple, at least `least`, and not less than `side`."""
    return -(-max(side, least) // multiple) * multiple


def pad_to_multiple(images: Tensor, multiple: int, least: int = 1) -> Tensor:
    """Images (B, C, H, W) continued on all sides as in mirrors, until both sides are multiples and at least `least`.

    The picture stays in the middle (an odd pixel goes below and to the right). However much is missing: narrow images
    are mirrored again and again, one-pixel ones repeated.
    """
    rows, columns = (_mirrored(side, padded_side(side, multiple, least), images.device) for side in images.shape[2:])
    return images[:, :, rows][:, :, :, columns]


def crop_to(images: Tensor, height: int, width: int) -> Tensor:
    """The middle of images (B, C, H', W'): undoes `pad_to_multiple`."""
    top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
    return images[:, :, top : top + height, left : left + width]


def _mirrored(side: int, padded: int, device: torch.device) -> Tensor:
    """For each place along a padded axis the place that it shows; the borders themselves are not repeated."""
    period = max(2 * (side - 1), 1)
    places = (torch.arange(padded, device=device) - (padded - side) // 2) % period
    return torch.minimum(places, period - places)
