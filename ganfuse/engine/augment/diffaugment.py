"""DiffAugment (Zhao, Liu, Lin, Zhu & Han, "Differentiable Augmentation for Data-Efficient GAN Training", 2020).

Section 4.1 and appendix: colour (brightness, saturation and contrast), translation by up to 1/8 of the side with zeros
outside, cutout of a square of half the side. Every image gets all of the chosen ones; the strengths are random.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ganfuse.engine.augment.checks import check_images
from ganfuse.engine.draws import Draws
from ganfuse.engine.noise import Noise

POLICIES = ("color", "translation", "cutout")
TRANSLATION = 1 / 8
CUTOUT = 1 / 2


def diff_augment(
    images: Tensor, policy: str = "color,translation,cutout", *, generator: torch.Generator | Noise | None = None
) -> Tensor:
    """The images, augmented; differentiable with respect to them any number of times.

    Args:
        images: floating point ``(B, C, H, W)`` in [-1, 1]; the result may exceed the range.
        policy: any of "color", "translation" and "cutout", with commas between; "" changes nothing.
        generator: of the random numbers, see `Draws`.

    Raises:
        ValueError: an unknown name in ``policy``, or another shape or type.
    """
    check_images(images)
    names = [name.strip() for name in policy.split(",") if name.strip()]
    for name in names:
        if name not in POLICIES:
            raise ValueError(f"policy: expected any of {', '.join(POLICIES)}, got {name!r}")
    dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
    draws = Draws(images, generator, dtype)
    result = images.to(dtype)
    # In this order whatever the order of the names, so that the same policy is the same augmentation.
    for name in POLICIES:
        if name in names:
            result = _STEPS[name](result, draws)
    return result.to(images.dtype)


def color(images: Tensor, draws: Draws) -> Tensor:
    """Brightness + U(-0.5, 0.5); distance from gray × U(0, 2); distance from the image's mean × U(0.5, 1.5)."""
    brightness, saturation, contrast = (
        draws.uniform(low, high).view(-1, 1, 1, 1) for low, high in ((-0.5, 0.5), (0.0, 2.0), (0.5, 1.5))
    )
    images = images + brightness
    if images.shape[1] > 1:
        gray = images.mean(dim=1, keepdim=True)
        images = gray + (images - gray) * saturation
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * contrast


def translation(images: Tensor, draws: Draws) -> Tensor:
    """Moved by whole pixels, up to 1/8 of the side each way, all distances being equally likely; zeros come in."""
    batch, _, height, width = images.shape
    places = []
    for side in (height, width):
        reach = int(side * TRANSLATION + 0.5)
        shift = draws.integers(2 * reach + 1).long() - reach
        places.append(torch.arange(side, device=images.device) + shift[:, None])
    rows, columns = places
    each = torch.arange(batch, device=images.device)
    inside_rows, inside_columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    moved = images[each[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    inside = (inside_rows[:, :, None] & inside_columns[:, None, :]).unsqueeze(1)
    return torch.where(inside, moved, torch.zeros((), dtype=images.dtype, device=images.device))


def cutout(images: Tensor, draws: Draws) -> Tensor:
    """A rectangle of half the height and width at a random place, which may reach over the border, becomes zero."""
    masks = []
    for side in images.shape[2:]:
        length = int(side * CUTOUT + 0.5)
        # The centre is uniform over the pixels (for an even length over one more).
        start = draws.integers(side + 1 - length % 2).long() - length // 2
        places = torch.arange(side, device=images.device) - start[:, None]
        masks.append((places >= 0) & (places < length))
    rows, columns = masks
    cut = (rows[:, :, None] & columns[:, None, :]).unsqueeze(1)
    return torch.where(cut, torch.zeros((), dtype=images.dtype, device=images.device), images)


_STEPS: dict[str, Callable[[Tensor, Draws], Tensor]] = {
    "color": color,
    "translation": translation,
    "cutout": cutout,
}
