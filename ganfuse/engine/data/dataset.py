"""The data set that every source becomes: uint8 images and integer labels, addressed by index."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

#: Sets whose decoded images need no more than this many bytes are kept in memory.
CACHE_LIMIT = 512 * 2**20


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images of one size with one label each; ``dataset[i]`` is ``(image, label)``.

    ``image`` is uint8 of shape ``(channels, resolution, resolution)``, ``label`` an int in ``0 .. num_classes - 1``.
    Images stay uint8 until they are on the device: a quarter of the bytes of float32 to store and to copy.

    Args:
        name: of the source, for messages and for the run's configuration.
        labels: one per image.
        class_names: ``class_names[label]`` says what the label means.
        channels: 1 or 3.
        resolution: side of the images in pixels.
        load: ``load(index)`` gives an image as uint8 ``(channels, resolution, resolution)``. It must be picklable where
            data-loader processes are spawned (Windows, macOS). May be None if ``images`` is given.
        images: all of them, uint8 ``(N, channels, resolution, resolution)``, where they are held in memory.

    Attributes:
        options: how the source was opened where that decides what the images are; `open_dataset` writes them, and a
            run's configuration records them.

    Raises:
        ValueError: no image, neither ``load`` nor ``images``, or lengths that disagree.
    """

    def __init__(
        self,
        *,
        name: str,
        labels: Sequence[int] | Tensor,
        class_names: Sequence[str],
        channels: int,
        resolution: int,
        load: Callable[[int], Tensor] | None = None,
        images: Tensor | None = None,
    ) -> None:
        self.name = name
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.class_names = tuple(class_names)
        self.channels = channels
        self.resolution = resolution
        self.images = images
        self.options: dict[str, Any] = {}
        self._load = load
        if len(self.labels) == 0:
            raise ValueError(f"data set {name!r} has no image")
        if load is None and images is None:
            raise ValueError(f"data set {name!r}: give `load` or `images`")
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= len(self.class_names):
            raise ValueError(
                f"data set {name!r}: labels must be in 0..{len(self.class_names) - 1}, "
                f"they span {int(self.labels.min())}..{int(self.labels.max())}"
            )
        expected = (len(self.labels), channels, resolution, resolution)
        if images is not None and (images.dtype != torch.uint8 or tuple(images.shape) != expected):
            raise ValueError(
                f"data set {name!r}: images must be uint8 {expected}, got {images.dtype} {tuple(images.shape)}"
            )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"data set {self.name!r} has {len(self)} images, index {index} is out of range")
        index %= len(self)
        if self.images is not None:
            return self.images[index], int(self.labels[index])
        assert self._load is not None
        return self._load(index), int(self.labels[index])

    def subset(self, indices: Sequence[int] | Tensor) -> "ImageDataset":
        """A data set of these images, in this order, with the same classes.

        Raises:
            ValueError: no index, or one that is out of range.
        """
        chosen = checked_indices(indices, len(self), self.name)
        images, load = None, None
        if self.images is not None:
            # Gray images shown as three equal channels are stored once; they stay so.
            stored = self.images[:, :1] if self.images.stride(1) == 0 else self.images
            images = stored[chosen].expand(-1, self.channels, -1, -1)
        else:
            assert self._load is not None
            load = LoadChosen(self._load, chosen)
        part = ImageDataset(
            name=self.name,
            labels=self.labels[chosen],
            class_names=self.class_names,
            channels=self.channels,
            resolution=self.resolution,
            load=load,
            images=images,
        )
        part.options = self.options
        return part

    def __repr__(self) -> str:
        return (
            f"ImageDataset({self.name!r}: {len(self)} images of {self.channels}×{self.resolution}×{self.resolution}, "
            f"{self.num_classes} {'class' if self.num_classes == 1 else 'classes'}, "
            f"{'in memory' if self.images is not None else 'loaded on access'})"
        )


@dataclass(frozen=True)
class LoadChosen:
    """Loads some of what ``load`` can: number ``index`` of the ``indices``."""

    load: Callable[[int], Tensor]
    indices: Tensor

    def __call__(self, index: int) -> Tensor:
        return self.load(int(self.indices[index]))


def checked_indices(indices: Sequence[int] | Tensor, length: int, name: str) -> Tensor:
    """The indices as int64, each in ``0 .. length - 1``; a ValueError if there is none, or another."""
    chosen = torch.as_tensor(indices, dtype=torch.int64)
    if chosen.ndim != 1 or len(chosen) == 0:
        raise ValueError(f"indices: data set {name!r} needs at least one, in one dimension; got {tuple(chosen.shape)}")
    if int(chosen.min()) < 0 or int(chosen.max()) >= length:
        raise ValueError(
            f"indices: data set {name!r} has 0..{length - 1}, got {int(chosen.min())}..{int(chosen.max())}"
        )
    return chosen


def fits_in_memory(num_images: int, channels: int, resolution: int) -> bool:
    """Whether that many uint8 images stay within `CACHE_LIMIT`."""
    return num_images * channels * resolution * resolution <= CACHE_LIMIT
