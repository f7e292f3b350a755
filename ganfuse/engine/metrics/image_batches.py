"""Images for the extractors: of a data set, or what a game draws, uint8 alike."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ganfuse.engine.batches import ImageData
from ganfuse.engine.seeding import make_generator

__all__ = ["chosen_indices", "data_labels", "has_classes", "image_batches", "read_images", "to_uint8"]


def to_uint8(images: Tensor) -> Tensor:
    """Float images in [-1, 1] to uint8, rounded and clipped as when they are written to a file.

    Scores of unrounded images are not those of the images that anybody gets to see (Parmar et al. 2022,
    arXiv:2104.11222).

    Raises:
        ValueError: NaN or infinite values, which no uint8 stands for.
    """
    if not bool(torch.isfinite(images).all()):
        raise ValueError("images: the game draws NaN or infinite values")
    return images.detach().float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def chosen_indices(length: int, num: int, seed: int) -> list[int]:
    """`num` different indices below `length`, in random order; all of them if there are no more."""
    generator = make_generator(torch.device("cpu"), seed, "real images")
    chosen: list[int] = torch.randperm(length, generator=generator)[:num].tolist()
    return chosen


def image_batches(data: ImageData, indices: Sequence[int], batch_size: int) -> Iterator[Tensor]:
    """The images at the indices, uint8 (B, C, H, W)."""
    for start in range(0, len(indices), batch_size):
        yield read_images(data, indices[start : start + batch_size])[0]


def read_images(data: ImageData, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images, uint8 (B, C, H, W), and labels, int64 (B,).

    Raises:
        ValueError: the items of the data set are not single images.
    """
    items = [_image_and_label(data[index]) for index in indices]
    return torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items])


def data_labels(data: ImageData) -> Tensor:
    """The labels of all images, int64 (N,)."""
    labels = getattr(data, "labels", None)
    if labels is not None:
        return torch.as_tensor(labels, dtype=torch.int64)
    return torch.tensor([_image_and_label(data[index])[1] for index in range(len(data))])


def has_classes(labels: Tensor) -> bool:
    """Whether the labels tell anything apart."""
    return bool((labels != labels[:1]).any())


def _image_and_label(item: Any) -> tuple[Tensor, int]:
    if isinstance(item, Mapping):
        item = (item.get("image"), item.get("label", 0))
    if not isinstance(item, tuple | list) or len(item) != 2 or not isinstance(item[0], Tensor):
        raise ValueError("data: scores need a data set of single images, items (image tensor, label)")
    return item[0], int(item[1])
