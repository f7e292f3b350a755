"""The two domains of a data set, each as a data set of images."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["are_paired", "central_square", "domains_of", "spread_images"]


def domains_of(data: Any) -> tuple[Any, Any]:
    """Domains A and B, whose items are (image, label): the data set's `domains`, or the halves of its items.

    Raises:
        ValueError: it has one domain, or some other number.
    """
    domains = getattr(data, "domains", None)
    if domains is not None and len(domains) == 2:
        first, second = domains
        return first, second
    item = data[0] if domains is None and len(data) else None
    if not isinstance(item, Mapping) or "image_a" not in item or "image_b" not in item:
        raise ValueError(f"expected images of two domains, got {getattr(data, 'name', 'data')!r} with one")
    return _Half(data, "a"), _Half(data, "b")


def are_paired(data: Any) -> bool:
    """Whether image i of domain A belongs to image i of domain B."""
    return bool(getattr(data, "paired", getattr(data, "domains", None) is None))


def spread_images(domain: Any, most: int) -> Tensor:
    """At most so many images of a domain, evenly spread over it, uint8 (N, C, H, W).

    Raises:
        ValueError: the images differ in shape.
    """
    count = min(most, len(domain))
    images = [domain[i * len(domain) // count][0] for i in range(count)]
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise ValueError(f"expected images of one shape, got {' and '.join(map(str, sorted(shapes)))}")
    return torch.stack(images)


def central_square(images: Tensor, side: int) -> Tensor:
    """The middle of images (..., H, W), which may be larger."""
    top, left = ((length - side) // 2 for length in images.shape[-2:])
    return images[..., top : top + side, left : left + side]


class _Half:
    def __init__(self, data: Any, letter: str) -> None:
        self.data = data
        self.letter = letter

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        item = self.data[index]
        return item[f"image_{self.letter}"], int(item.get(f"label_{self.letter}", 0))
