"""Domains for translation that need no download beyond the pictures they are made from.

* ``digits-thick``: the embedded digits (A), and the same with thick strokes (B).
* ``fashion-edges``: Fashion-MNIST (A), and its edges (B).

Paired, they are pictures and what was made of them. Unpaired, A has every other picture and B what was made of the
rest, so that no picture has its partner in the other domain.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ganfuse.engine.data import digits, fashion_mnist
from ganfuse.engine.data.arrays import dataset_from_array
from ganfuse.engine.data.dataset import ImageDataset
from ganfuse.engine.data.pairs import PairedDataset, UnpairedDataset


def thicken(pictures: Tensor) -> Tensor:
    """Strokes a pixel wider on every side: gray dilation by a 3×3 square. uint8 (N, H, W) to the same."""
    return F.max_pool2d(pictures.float()[:, None], 3, stride=1, padding=1)[:, 0].to(torch.uint8)


def edges(pictures: Tensor) -> Tensor:
    """The length of Sobel's gradient, so scaled that a step from 0 to 255 along an axis gives 255.

    uint8 (N, H, W) to the same; borders count as if the picture went on with its outermost pixels.
    """
    smooth, slope = torch.tensor([1.0, 2.0, 1.0]) / 4, torch.tensor([-1.0, 0.0, 1.0])
    kernels = torch.stack([smooth[:, None] * slope, slope[:, None] * smooth])[:, None]
    parts = []
    for chunk in torch.split(pictures, 2048):
        gradient = F.conv2d(F.pad(chunk.float()[:, None], (1, 1, 1, 1), mode="replicate"), kernels)
        parts.append(torch.linalg.vector_norm(gradient, dim=1).round_().clamp_(max=255).to(torch.uint8))
    return torch.cat(parts)


def open_digits_thick(
    *, resolution: int, channels: int | None = None, paired: bool, cache: bool = True
) -> PairedDataset | UnpairedDataset:
    """Digits and thick digits, 1,797 pairs, or 899 and 898 images; labels 0 to 9."""
    pictures, labels = digits.read_digits()
    # At 20×20, where strokes are two pixels wide: a pixel more on every side doubles them.
    pictures = F.interpolate(pictures[:, None].float(), scale_factor=2, mode="bilinear")[:, 0].round().to(torch.uint8)
    return _open(
        "digits-thick",
        ("digits", "thick"),
        pictures,
        labels,
        thicken,
        digits.CLASS_NAMES,
        resolution=resolution,
        channels=channels,
        paired=paired,
        cache=cache,
    )


def open_fashion_edges(
    *, resolution: int, channels: int | None = None, split: str = "train", paired: bool, cache: bool = True
) -> PairedDataset | UnpairedDataset:
    """Clothing and its edges, of 60,000 pictures (``split="test"``: 10,000); errors as of `open_fashion_mnist`."""
    pictures, labels = fashion_mnist.read_fashion_mnist(split)
    # The margin that `open_fashion_mnist` gives, here always: outlines need room.
    pictures = F.pad(pictures, (2, 2, 2, 2))
    return _open(
        "fashion-edges",
        ("photo", "edges"),
        pictures,
        labels,
        edges,
        fashion_mnist.CLASS_NAMES,
        resolution=resolution,
        channels=channels,
        paired=paired,
        cache=cache,
    )


def _open(
    name: str,
    domain_names: tuple[str, str],
    pictures: Tensor,
    labels: Tensor,
    change: Callable[[Tensor], Tensor],
    class_names: tuple[str, ...],
    *,
    resolution: int,
    channels: int | None,
    paired: bool,
    cache: bool,
) -> PairedDataset | UnpairedDataset:
    def domain(pictures: Tensor, labels: Tensor, domain_name: str) -> ImageDataset:
        return dataset_from_array(
            pictures,
            labels,
            name=f"{name} ({domain_name})",
            class_names=class_names,
            channels=1 if channels is None else channels,
            resolution=resolution,
            cache=cache,
        )

    if paired:
        first = domain(pictures, labels, domain_names[0])
        second = domain(change(pictures), labels, domain_names[1])
        return PairedDataset(first, second, name=name, domain_names=domain_names)
    first = domain(pictures[::2], labels[::2], domain_names[0])
    second = domain(change(pictures[1::2]), labels[1::2], domain_names[1])
    return UnpairedDataset(first, second, name=name, domain_names=domain_names)
