"""Images with embeddings of their captions, for text-to-image games (GAN-CLS, Reed et al. 2016)."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import Dataset

from ganfuse.engine.data.dataset import ImageDataset, checked_indices
from ganfuse.engine.data.samples import Sample
from ganfuse.engine.draws import Draws
from ganfuse.engine.noise import Noise


class EmbeddingTable(Protocol):
    """An array or tensor ``(N, features)`` or ``(N, captions, features)``."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, index: int, /) -> ArrayLike | Tensor: ...


class EmbeddedDataset(Dataset[Sample]):
    """Images, each with the embeddings of its captions and a class; ``dataset[i]`` is a `Sample`.

    Its entries are ``image`` (uint8), ``embedding`` (float32 ``(captions, features)``: all captions of the image, of
    which `choose_captions` takes some on the device) and ``label`` (int), by which `mismatching` finds wrong images for
    a text.

    Args:
        images: the images.
        embeddings: of their captions: a table ``(len(images), features)`` or ``(len(images), captions, features)``.
        rows: ``rows[i]`` is the table's row for image ``i``; by default ``i`` itself.

    Attributes:
        images: the `ImageDataset`.
        captions, features: the shape of an item's embedding.
        name, labels, class_names, num_classes, channels, resolution, options: as of the images.

    Raises:
        ValueError: embeddings of another shape, or not as many as images.
    """

    def __init__(
        self, images: ImageDataset, embeddings: EmbeddingTable, *, rows: Sequence[int] | Tensor | None = None
    ) -> None:
        shape = tuple(embeddings.shape)
        if len(shape) not in (2, 3) or 0 in shape:
            raise ValueError(
                f"embeddings: expected (images, features) or (images, captions, features), got shape {shape}"
            )
        if rows is None and shape[0] != len(images):
            raise ValueError(f"embeddings: there are {shape[0]} for {len(images)} images of {images.name!r}")
        self.images = images
        self.embeddings = embeddings
        self.rows = torch.arange(len(images)) if rows is None else checked_indices(rows, shape[0], images.name)
        if len(self.rows) != len(images):
            raise ValueError(f"rows: there are {len(self.rows)} for {len(images)} images of {images.name!r}")
        self.captions, self.features = (1, shape[1]) if len(shape) == 2 else shape[1:]
        self.name, self.labels, self.class_names = images.name, images.labels, images.class_names
        self.options = images.options
        self.channels, self.resolution, self.num_classes = images.channels, images.resolution, images.num_classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        image, label = self.images[index]
        return {"image": image, "embedding": self.embedding(index), "label": label}

    def embedding(self, index: int) -> Tensor:
        """Of the captions of an image, which is not read for that: float32 (captions, features)."""
        row = self.embeddings[int(self.rows[index])]
        embedding = row.float() if isinstance(row, Tensor) else torch.from_numpy(np.array(row, dtype=np.float32))
        return embedding.view(self.captions, self.features)

    def subset(self, indices: Sequence[int] | Tensor) -> "EmbeddedDataset":
        """A data set of these images and their captions, in this order.

        Raises:
            ValueError: no index, or one that is out of range.
        """
        chosen = checked_indices(indices, len(self), self.name)
        part = EmbeddedDataset(self.images.subset(chosen), self.embeddings, rows=self.rows[chosen])
        part.name = self.name
        part.options = self.options
        return part

    def __repr__(self) -> str:
        captions = f"{self.captions} embeddings of {self.features} features"
        return f"EmbeddedDataset({self.images!r}, each with {captions})"


def choose_captions(embeddings: Tensor, *, count: int = 1, generator: torch.Generator | Noise | None = None) -> Tensor:
    """The mean of ``count`` different captions of each image, drawn at random.

    GAN-CLS averages four captions per image (Reed et al. 2016 and their code).

    Args:
        embeddings: float ``(B, captions, features)``.
        count: how many, at most all of them.
        generator: of the choice, see `ganfuse.engine.draws.Draws`.

    Returns:
        ``(B, features)``.

    Raises:
        ValueError: another shape, or more captions than there are.
    """
    if embeddings.ndim != 3:
        raise ValueError(f"embeddings: expected (B, captions, features), got shape {tuple(embeddings.shape)}")
    _, captions, features = embeddings.shape
    if not 1 <= count <= captions:
        raise ValueError(f"count: expected 1 to {captions} captions, got {count!r}")
    keys = Draws(embeddings, generator).uniform(shape=(captions,))
    chosen = keys.argsort(dim=1)[:, :count, None].expand(-1, -1, features)
    return embeddings.gather(1, chosen).mean(dim=1)


def mismatching(labels: Tensor, *, generator: torch.Generator | Noise | None = None) -> Tensor:
    """For each item of a batch the place of another, drawn at random, whose text does not describe it.

    It is of another class; where the batch has no other class, any other item. (Of the batch that is at hand: processes
    that share a larger one find partners in their own parts.) ``images[mismatching(labels)]`` are the
    "wrong images" of GAN-CLS for the texts in their order, ``embeddings[mismatching(labels)]`` the wrong texts.

    Args:
        labels: int64 ``(B,)``, with B at least 2.
        generator: of the choice, see `ganfuse.engine.draws.Draws`.

    Returns:
        int64 ``(B,)``.

    Raises:
        ValueError: fewer than two items.
    """
    if labels.ndim != 1 or len(labels) < 2:
        raise ValueError(f"labels: expected (B,) with at least two items, got shape {tuple(labels.shape)}")
    differs = labels[:, None] != labels[None]
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    allowed = torch.where(differs.any(dim=1, keepdim=True), differs, others)
    # The largest of the allowed ones' numbers is equally likely to be any one's.
    keys = Draws(labels, generator).uniform(shape=(len(labels),))
    return keys.masked_fill(~allowed, -1.0).argmax(dim=1)
