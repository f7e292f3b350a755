"""Two domains of images for translation: pairs that show the same, or images that have nothing in common."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from ganfuse.engine.data.dataset import ImageDataset, LoadChosen, checked_indices
from ganfuse.engine.data.samples import Sample


class UnpairedDataset(Dataset[Sample]):
    """Two independent sets of images, as in CycleGAN (Zhu et al. 2017).

    ``dataset[i, j]`` is a `Sample` of image ``i`` of domain A and image ``j`` of domain B: which images meet is for the
    order to say, and each domain has its own permutation. ``dataset[i]`` takes both at ``i``, each counted round.

    Args:
        domain_a: the first domain.
        domain_b: the second; of the same resolution and number of channels.
        name: of the source.
        domain_names: what the domains are called.

    Attributes:
        domains: both `ImageDataset`s.
        paired: False.
        resolution, channels: of both.
        options: as of `ImageDataset`.

    Raises:
        ValueError: sizes that differ.
    """

    paired = False

    def __init__(
        self,
        domain_a: ImageDataset,
        domain_b: ImageDataset,
        *,
        name: str,
        domain_names: tuple[str, str] = ("a", "b"),
    ) -> None:
        _check_sizes(domain_a, domain_b, name)
        self.name = name
        self.domains = (domain_a, domain_b)
        self.domain_names = domain_names
        self.options: dict[str, Any] = {}
        self.resolution, self.channels = domain_a.resolution, domain_a.channels

    def __len__(self) -> int:
        """Of the larger domain: an epoch shows each of its images once."""
        return max(map(len, self.domains))

    def __getitem__(self, index: int | tuple[int, int]) -> Sample:
        a, b = self.domains
        if isinstance(index, tuple):
            first, second = index
        else:
            if not -len(self) <= index < len(self):
                raise IndexError(f"data set {self.name!r} has {len(self)} items, index {index} is out of range")
            first, second = (index % len(self)) % len(a), (index % len(self)) % len(b)
        (image_a, label_a), (image_b, label_b) = a[first], b[second]
        return {"image_a": image_a, "image_b": image_b, "label_a": label_a, "label_b": label_b}

    def subsets(self, indices_a: Sequence[int] | Tensor, indices_b: Sequence[int] | Tensor) -> "UnpairedDataset":
        """A data set of these images of each domain, in this order.

        Raises:
            ValueError: no index, or one that is out of range.
        """
        first, second = self.domains[0].subset(indices_a), self.domains[1].subset(indices_b)
        part = UnpairedDataset(first, second, name=self.name, domain_names=self.domain_names)
        part.options = self.options
        return part

    def __repr__(self) -> str:
        counts = " and ".join(str(len(domain)) for domain in self.domains)
        return f"UnpairedDataset({self.name!r}: {counts} images of {_size(self.domains[0])})"


class PairedDataset(Dataset[Sample]):
    """Pairs of images that show the same in two domains, as in pix2pix (Isola et al. 2017); CSGAN needs such.

    ``dataset[i]`` is a `Sample` of both images of pair ``i``.

    Args:
        domain_a: the first domain.
        domain_b: the second, whose image ``i`` belongs to image ``i`` of the first; of the same size and length.
        name: of the source.
        domain_names: what the domains are called.
        load_pair: ``load_pair(index)`` gives both images as uint8 ``(2, channels, resolution, resolution)``, where that
            is less work than loading each for itself.

    Attributes:
        domains: both `ImageDataset`s.
        paired: True.
        resolution, channels: of both.
        options: as of `ImageDataset`.

    Raises:
        ValueError: sizes or lengths that differ.
    """

    paired = True

    def __init__(
        self,
        domain_a: ImageDataset,
        domain_b: ImageDataset,
        *,
        name: str,
        domain_names: tuple[str, str] = ("a", "b"),
        load_pair: Callable[[int], Tensor] | None = None,
    ) -> None:
        _check_sizes(domain_a, domain_b, name)
        if len(domain_a) != len(domain_b):
            raise ValueError(
                f"data set {name!r}: pairs need as many images in both domains, got {len(domain_a)} and {len(domain_b)}"
            )
        self.name = name
        self.domains = (domain_a, domain_b)
        self.domain_names = domain_names
        self.options: dict[str, Any] = {}
        self.resolution, self.channels = domain_a.resolution, domain_a.channels
        self._load_pair = load_pair

    def __len__(self) -> int:
        return len(self.domains[0])

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"data set {self.name!r} has {len(self)} pairs, index {index} is out of range")
        index %= len(self)
        a, b = self.domains
        if self._load_pair is None:
            image_a, image_b = a[index][0], b[index][0]
        else:
            image_a, image_b = self._load_pair(index)
        label_a, label_b = int(a.labels[index]), int(b.labels[index])
        return {"image_a": image_a, "image_b": image_b, "label_a": label_a, "label_b": label_b}

    def subset(self, indices: Sequence[int] | Tensor) -> "PairedDataset":
        """A data set of these pairs, in this order.

        Raises:
            ValueError: no index, or one that is out of range.
        """
        chosen = checked_indices(indices, len(self), self.name)
        part = PairedDataset(
            self.domains[0].subset(chosen),
            self.domains[1].subset(chosen),
            name=self.name,
            domain_names=self.domain_names,
            load_pair=None if self._load_pair is None else LoadChosen(self._load_pair, chosen),
        )
        part.options = self.options
        return part

    def unpaired(self) -> UnpairedDataset:
        """The two domains without the knowledge of which image belongs to which."""
        domains = UnpairedDataset(*self.domains, name=self.name, domain_names=self.domain_names)
        domains.options = self.options
        return domains

    def __repr__(self) -> str:
        return f"PairedDataset({self.name!r}: {len(self)} pairs of {_size(self.domains[0])})"


def _check_sizes(domain_a: ImageDataset, domain_b: ImageDataset, name: str) -> None:
    if (domain_a.resolution, domain_a.channels) != (domain_b.resolution, domain_b.channels):
        raise ValueError(
            f"data set {name!r}: the domains must have images of one size, got {_size(domain_a)} and {_size(domain_b)}"
        )


def _size(data: ImageDataset) -> str:
    return f"{data.channels}×{data.resolution}×{data.resolution}"
