"""Pools of generated images from earlier steps, for discriminators that would otherwise forget them."""

import torch
from torch import Tensor, nn

from ganfuse.engine.layers.joined_batch import join_batch, own_rows
from ganfuse.engine.layers.process_group import InProcessGroup
from ganfuse.engine.noise import Noise

__all__ = ["ReplayPool"]


class ReplayPool(InProcessGroup, nn.Module):
    """Shows the discriminator a history of generated images. Shrivastava et al. 2017 (arXiv 1612.07828), section 2.3.

    As CycleGAN does it (Zhu et al. 2017, arXiv 1703.10593, section 4): until the pool is full every image is stored and
    given back; then each image is, with probability ½, given back as it came, or it takes the place of a stored one,
    which is given back instead. The coin is tossed for each image. The pool is state of the game, so it is in the
    checkpoints and a resumed run goes on with it.

    Args:
        capacity: images that it holds (CycleGAN: 50); 0 gives back what comes.
        shape: of an image, (C, H, W).
        labelled: hold a label with each image; then only `exchange_labelled` may be called.

    Attributes:
        images: (capacity, C, H, W).
        labels: int64 (capacity,), or None.
        filled: how many of them hold an image.
        process_group: the processes that share the pool, each of which holds all of it and brings an equal part of
            every batch; None: this one alone. The trainer sets it.
    """

    images: Tensor
    labels: Tensor | None
    filled: Tensor

    def __init__(self, capacity: int, shape: tuple[int, int, int], *, labelled: bool = False) -> None:
        super().__init__()
        if capacity < 0:
            raise ValueError(f"capacity: expected a number of images of at least 0, got {capacity}")
        self.capacity = capacity
        self.process_group = None
        self.register_buffer("images", torch.zeros(capacity, *shape))
        self.register_buffer("labels", torch.zeros(capacity, dtype=torch.int64) if labelled else None)
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def exchange(self, images: Tensor, noise: Noise) -> Tensor:
        """Images to show to the discriminator, (B, C, H, W), without gradients.

        Args:
            images: freshly generated, (B, C, H, W); copies are stored.
            noise: of the turn.

        Raises:
            ValueError: images of another shape than the pool was made for, or a pool of labelled images.
        """
        if self.labels is not None:
            raise ValueError("images: the pool holds labelled images; exchange_labelled takes them with their labels")
        return self._exchange(images, None, noise)[0]

    @torch.no_grad()
    def exchange_labelled(self, images: Tensor, labels: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """The same, each image with its label, int64 (B,).

        Raises:
            ValueError: images of another shape than the pool was made for, or a pool without labels.
        """
        if self.labels is None:
            raise ValueError("labels: the pool was made without labelled=True")
        return self._exchange(images, labels, noise)

    def _exchange(self, images: Tensor, labels: Tensor | None, noise: Noise) -> tuple[Tensor, Tensor]:
        if images.shape[1:] != self.images.shape[1:]:
            raise ValueError(
                f"images: the pool holds images of shape {tuple(self.images.shape[1:])}, got {tuple(images.shape[1:])}"
            )
        images = images.detach()
        shown = torch.zeros(len(images), dtype=torch.int64, device=images.device) if labels is None else labels
        if self.capacity == 0:
            return images, shown
        group = self.process_group
        # A draw for each image whatever happens to it, so that the draws of later images do not depend on the pool.
        swapped = join_batch((noise.uniform(len(images)) < 0.5).long().to(images.device), group).tolist()
        places = join_batch(noise.integers(self.capacity, len(images)).to(images.device), group).tolist()
        images, shown = join_batch(images, group).clone(), join_batch(shown, group).clone()
        filled = int(self.filled)
        for index, (swap, place) in enumerate(zip(swapped, places)):
            if filled < self.capacity:
                self.images[filled] = images[index].to(self.images.dtype)
                if self.labels is not None:
                    self.labels[filled] = shown[index]
                filled += 1
            elif swap:
                older = self.images[place].to(images.dtype, copy=True)
                self.images[place] = images[index].to(self.images.dtype)
                images[index] = older
                if self.labels is not None:
                    label = self.labels[place].clone()
                    self.labels[place] = shown[index]
                    shown[index] = label
        self.filled.fill_(filled)
        return own_rows(images, group), own_rows(shown, group)
