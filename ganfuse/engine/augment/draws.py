"""Random numbers for a batch of images, and what all augmentations ask of the images."""

import math

import torch
from torch import Tensor


def check_images(images: Tensor) -> None:
    """Raises a ValueError for anything but floating point images ``(B, C, H, W)``."""
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images: expected floating point (B, C, H, W), got {images.dtype} {tuple(images.shape)}")


def check_probability(name: str, value: float) -> None:
    """Raises a ValueError for anything outside [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}: expected a probability from 0 to 1, got {value!r}")


class Draws:
    """Random numbers, one for each image of a batch: ``(B,)`` on the images' device.

    Args:
        images: give the batch size and device.
        generator: on that device; None takes PyTorch's global one.
        dtype: of the numbers.
    """

    def __init__(self, images: Tensor, generator: torch.Generator | None, dtype: torch.dtype) -> None:
        self.batch, self.device, self.dtype = images.shape[0], images.device, dtype
        self._generator = generator

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform in [low, high)."""
        numbers = torch.rand(self.batch, generator=self._generator, device=self.device, dtype=self.dtype)
        return numbers.mul_(high - low).add_(low)

    def normal(self, std: float) -> Tensor:
        """Normal with mean 0."""
        numbers = torch.randn(self.batch, generator=self._generator, device=self.device, dtype=self.dtype)
        return numbers.mul_(std)

    def lognormal2(self, std: float) -> Tensor:
        """2 to the power of a normal number: the exponential of one with the deviation std · ln 2."""
        return self.normal(std * math.log(2.0)).exp_()

    def integers(self, count: int) -> Tensor:
        """Whole numbers 0 … count - 1, as floating point."""
        return self.uniform(0.0, count).floor_().clamp_(max=count - 1)
