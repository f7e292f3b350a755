"""Parts of a data set: a limit for experiments, a held-out part for the watch on memorisation."""

from typing import TypeVar, cast

import torch
from torch import Tensor

from ganfuse.engine.data.dataset import ImageDataset
from ganfuse.engine.data.embedded import EmbeddedDataset
from ganfuse.engine.data.pairs import PairedDataset, UnpairedDataset
from ganfuse.engine.seeding import make_generator

_Whole = ImageDataset | PairedDataset | EmbeddedDataset
DataT = TypeVar("DataT", bound=_Whole | UnpairedDataset)


def limit_dataset(data: DataT, max_images: int, *, seed: int = 0) -> DataT:
    """At most so many images, of an unpaired data set in each domain: drawn at random, in the order they had.

    The choice depends on ``seed`` and the number of images alone, and a larger limit keeps what a smaller one has.

    Raises:
        ValueError: a limit below 1.
    """
    if isinstance(max_images, bool) or not isinstance(max_images, int) or max_images < 1:
        raise ValueError(f"max_images: expected a whole number of at least 1, got {max_images!r}")
    if isinstance(data, UnpairedDataset):
        chosen = (_limited(len(domain), max_images, seed) for domain in data.domains)
        return cast(DataT, data.subsets(*chosen))
    if max_images >= len(data):
        return data
    return _subset(data, _limited(len(data), max_images, seed))


def split_dataset(data: DataT, fraction: float, seed: int = 0) -> tuple[DataT, DataT]:
    """The data set in two parts without a common image: the larger rest, and the held-out ``fraction``.

    Images are drawn at random and stay in their order; an unpaired data set is split in each domain. Both parts have at
    least one image. The choice depends on ``seed``, ``fraction`` and the number of images alone.

    Args:
        data: at least two images (in each domain).
        fraction: of the images that are held out, in (0, 1); rounded to whole images.
        seed: of the choice.

    Returns:
        ``(rest, held_out)``.

    Raises:
        ValueError: a fraction outside (0, 1), or fewer than two images.
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction: expected a number between 0 and 1, got {fraction!r}")
    if isinstance(data, UnpairedDataset):
        (rest_a, held_a), (rest_b, held_b) = (_parts(len(domain), fraction, seed, data.name) for domain in data.domains)
        return cast(DataT, data.subsets(rest_a, rest_b)), cast(DataT, data.subsets(held_a, held_b))
    rest, held_out = _parts(len(data), fraction, seed, data.name)
    return _subset(data, rest), _subset(data, held_out)


def _subset(data: DataT, indices: Tensor) -> DataT:
    return cast(DataT, cast(_Whole, data).subset(indices))


def _limited(length: int, limit: int, seed: int) -> Tensor:
    return _shuffled(length, seed, "limit")[:limit].sort().values


def _parts(length: int, fraction: float, seed: int, name: str) -> tuple[Tensor, Tensor]:
    if length < 2:
        raise ValueError(f"data: {name!r} has one image, which cannot be split")
    count = min(max(1, round(fraction * length)), length - 1)
    order = _shuffled(length, seed, "split")
    return order[count:].sort().values, order[:count].sort().values


def _shuffled(length: int, seed: int, purpose: str) -> Tensor:
    return torch.randperm(length, generator=make_generator(torch.device("cpu"), seed, "data", purpose))
