"""Random numbers for each image of a batch, on the images' device."""

import math

import torch
from torch import Tensor

from ganfuse.engine.noise import Noise

__all__ = ["Draws"]


class Draws:
    """Random numbers, one for each image of a batch: ``(B,)``, or ``(B, *shape)``, on the images' device.

    Args:
        images: any tensor ``(B, ...)``; gives the batch size and the device.
        generator: on that device; a `Noise`, by which shares of a batch get the numbers that the whole would get; or
            None for PyTorch's global generator of the device.
        dtype: of the numbers.
    """

    def __init__(
        self, images: Tensor, generator: torch.Generator | Noise | None, dtype: torch.dtype = torch.float32
    ) -> None:
        self.batch, self.device, self.dtype = images.shape[0], images.device, dtype
        self._generator = generator

    def uniform(self, low: float = 0.0, high: float = 1.0, *, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform in [low, high)."""
        if isinstance(self._generator, Noise):
            numbers = self._generator.uniform(self.batch, *shape, dtype=self.dtype).to(self.device)
        else:
            size = (self.batch, *shape)
            numbers = torch.rand(size, generator=self._generator, device=self.device, dtype=self.dtype)
        return numbers * (high - low) + low

    def normal(self, std: float) -> Tensor:
        """Normal with mean 0."""
        if isinstance(self._generator, Noise):
            return self._generator.normal(self.batch, dtype=self.dtype).to(self.device) * std
        return torch.randn(self.batch, generator=self._generator, device=self.device, dtype=self.dtype) * std

    def lognormal2(self, std: float) -> Tensor:
        """2 to the power of a normal number: the exponential of one with the deviation std · ln 2."""
        return self.normal(std * math.log(2.0)).exp()

    def integers(self, count: int) -> Tensor:
        """Whole numbers 0 … count - 1, as floating point."""
        return self.uniform(0.0, count).floor().clamp(max=count - 1)
