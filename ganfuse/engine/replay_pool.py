"""Pools of generated images from earlier steps, for discriminators that would otherwise forget them."""

import torch
from torch import Tensor, nn

from ganfuse.engine.noise import Noise

__all__ = ["ReplayPool"]


class ReplayPool(nn.Module):
    """Shows the discriminator a history of generated images. Shrivastava et al. 2017 (arXiv 1612.07828), section 2.3.

    As CycleGAN does it (Zhu et al. 2017, arXiv 1703.10593, section 4): until the pool is full every image is stored and
    given back; then each image is, with probability ½, given back as it came, or it takes the place of a stored one,
    which is given back instead. The coin is tossed for each image. The pool is state of the game, so it is in the
    checkpoints and a resumed run goes on with it.

    Args:
        capacity: images that it holds (CycleGAN: 50); 0 gives back what comes.
        shape: of an image, (C, H, W).

    Attributes:
        images: (capacity, C, H, W).
        filled: how many of them hold an image.
    """

    images: Tensor
    filled: Tensor

    def __init__(self, capacity: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        if capacity < 0:
            raise ValueError(f"capacity: expected a number of images of at least 0, got {capacity}")
        self.capacity = capacity
        self.register_buffer("images", torch.zeros(capacity, *shape))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def exchange(self, images: Tensor, noise: Noise) -> Tensor:
        """Images to show to the discriminator, (B, C, H, W), without gradients.

        Args:
            images: freshly generated, (B, C, H, W); copies are stored.
            noise: of the turn.

        Raises:
            ValueError: images of another shape than the pool was made for.
        """
        if images.shape[1:] != self.images.shape[1:]:
            raise ValueError(
                f"images: the pool holds images of shape {tuple(self.images.shape[1:])}, got {tuple(images.shape[1:])}"
            )
        images = images.detach()
        if self.capacity == 0:
            return images
        # A draw for each image whatever happens to it, so that the draws of later images do not depend on the pool.
        swapped = (noise.uniform(len(images)) < 0.5).tolist()
        places = noise.integers(self.capacity, len(images)).tolist()
        filled = int(self.filled)
        shown = []
        for image, swap, place in zip(images, swapped, places):
            if filled < self.capacity:
                self.images[filled] = image.to(self.images.dtype)
                filled += 1
                shown.append(image)
            elif swap:
                shown.append(self.images[place].to(image.dtype, copy=True))
                self.images[place] = image.to(self.images.dtype)
            else:
                shown.append(image)
        self.filled.fill_(filled)
        return torch.stack(shown)
