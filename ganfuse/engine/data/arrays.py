"""Data sets that come as one array of small grayscale pictures: resized once if they fit in memory, else on access."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ganfuse.engine.data.dataset import ImageDataset, fits_in_memory


def resize_uint8(images: Tensor, resolution: int) -> Tensor:
    """Square uint8 images ``(N, C, H, H)`` resized bicubically to ``(N, C, resolution, resolution)``."""
    if images.shape[-1] == resolution:
        return images
    # Enlarging cannot alias, and PyTorch's plain bicubic (a = -0.75) is crisper than its antialiased one (-0.5).
    shrinks = resolution < images.shape[-1]
    resized = F.interpolate(
        images.float(), size=(resolution, resolution), mode="bicubic", align_corners=False, antialias=shrinks
    )
    return resized.round_().clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class ResizeOnAccess:
    """Loads one picture out of a stored array and resizes it."""

    pictures: Tensor
    channels: int
    resolution: int

    def __call__(self, index: int) -> Tensor:
        picture = resize_uint8(self.pictures[index : index + 1, None], self.resolution)[0]
        return picture.repeat(self.channels, 1, 1)


def dataset_from_array(
    pictures: Tensor,
    labels: Tensor,
    *,
    name: str,
    class_names: Sequence[str],
    channels: int,
    resolution: int,
    cache: bool = True,
) -> ImageDataset:
    """Data set of uint8 grayscale ``pictures`` (N, H, H); with ``channels=3`` the three are equal."""
    if not (cache and fits_in_memory(len(pictures), 1, resolution)):
        load = ResizeOnAccess(pictures, channels, resolution)
        return ImageDataset(
            name=name, labels=labels, class_names=class_names, channels=channels, resolution=resolution, load=load
        )
    # In chunks, since the float copies of all the pictures at once would need many times the memory of the result.
    resized = torch.cat([resize_uint8(chunk[:, None], resolution) for chunk in torch.split(pictures, 2048)])
    return ImageDataset(
        name=name,
        labels=labels,
        class_names=class_names,
        channels=channels,
        resolution=resolution,
        images=resized.expand(-1, channels, -1, -1),
    )
