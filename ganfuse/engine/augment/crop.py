"""Random crops. Load larger images (CycleGAN: 286 for 256; GAN-CLS: 76 for 64) and cut them on the device."""

import math

import torch
from torch import Tensor

from ganfuse.engine.augment.checks import check_images
from ganfuse.engine.augment.resample import resample
from ganfuse.engine.draws import Draws
from ganfuse.engine.noise import Noise


def random_crop(images: Tensor, size: int, *, generator: torch.Generator | Noise | None = None) -> Tensor:
    """From each image a square at a random place, all places being equally likely.

    Args:
        images: ``(B, C, H, W)`` of any type, uint8 too. For pairs that must be cut alike, concatenate their channels.
        size: side of the squares in pixels.
        generator: of the random numbers, see `Draws`.

    Returns:
        ``(B, C, size, size)``.

    Raises:
        ValueError: another shape, or images that are smaller than ``size``.
    """
    if images.ndim != 4:
        raise ValueError(f"images: expected (B, C, H, W), got shape {tuple(images.shape)}")
    batch, _, height, width = images.shape
    if not 1 <= size <= min(height, width):
        raise ValueError(f"size: expected 1 to {min(height, width)} for images of {height}×{width}, got {size!r}")
    draws = Draws(images, generator)
    top, left = draws.integers(height - size + 1).long(), draws.integers(width - size + 1).long()
    offsets = torch.arange(size, device=images.device)
    rows, columns = top[:, None] + offsets, left[:, None] + offsets
    each = torch.arange(batch, device=images.device)
    # Indexing puts the indexed dimensions first: (B, size, size, C).
    return images[each[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def random_resized_crop(
    images: Tensor,
    size: int,
    *,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    generator: torch.Generator | Noise | None = None,
) -> Tensor:
    """From each image a rectangle of random area, shape and place, resized bilinearly to ``size × size``.

    The crop of Szegedy et al., "Going Deeper with Convolutions" (2015), section 6. A rectangle that would not fit is
    narrowed to the image. There is no low-pass filter: a rectangle should have no more than about twice the result's
    side.

    Args:
        images: floating point ``(B, C, H, W)``.
        size: side of the result in pixels.
        scale: the rectangle's area as a share of the image's: uniform between these, both in (0, 1].
        ratio: width by height, uniform in its logarithm between these.
        generator: of the random numbers, see `Draws`.

    Raises:
        ValueError: another shape or type, or bounds that are none.
    """
    check_images(images)
    if size < 1:
        raise ValueError(f"size: expected at least 1, got {size!r}")
    if not 0.0 < scale[0] <= scale[1] <= 1.0:
        raise ValueError(f"scale: expected two shares 0 < low <= high <= 1, got {scale!r}")
    if not 0.0 < ratio[0] <= ratio[1]:
        raise ValueError(f"ratio: expected 0 < low <= high, got {ratio!r}")
    height, width = images.shape[2:]
    dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
    draws = Draws(images, generator, dtype)
    area = draws.uniform(*scale) * (height * width)
    shape = draws.uniform(math.log(ratio[0]), math.log(ratio[1])).exp()
    wide = (area * shape).sqrt().clamp(max=width)
    high = (area / shape).sqrt().clamp(max=height)
    left, top = draws.uniform() * (width - wide), draws.uniform() * (height - high)
    # Centres of the result's pixels in coordinates that run from -1 to 1 over the image.
    place = (torch.arange(size, device=images.device, dtype=dtype) + 0.5) / size
    x = (left[:, None] + place * wide[:, None]) * (2 / width) - 1
    y = (top[:, None] + place * high[:, None]) * (2 / height) - 1
    grid = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=3)
    return resample(images.to(dtype), grid).to(images.dtype)
