"""Heat maps in colour over the images that they belong to."""

import torch
from torch import Tensor

__all__ = ["heat_colors", "overlay_heat"]


def heat_colors(heat: Tensor) -> Tensor:
    """(B, 1, H, W) in [0, 1] to (B, 3, H, W) in [-1, 1]: from black over red and yellow to white."""
    thirds = [(3.0 * heat.float() - start).clamp(0.0, 1.0) for start in (0.0, 1.0, 2.0)]
    return torch.cat(thirds, 1).mul(2.0).sub(1.0)


def overlay_heat(images: Tensor, heat: Tensor) -> Tensor:
    """Half the image in gray, half the colours of the heat: (B, 3, H, W) in [-1, 1].

    Args:
        images: (B, 1 or 3, H, W) in [-1, 1].
        heat: (B, 1, H, W) in [0, 1].

    Raises:
        ValueError: the shapes do not fit.
    """
    expected = (images.shape[0], 1, *images.shape[2:])
    if images.dim() != 4 or heat.shape != expected:
        raise ValueError(f"heat: expected {expected} for images {tuple(images.shape)}, got {tuple(heat.shape)}")
    gray = images.float().mean(1, keepdim=True)
    return 0.5 * (gray + heat_colors(heat))
