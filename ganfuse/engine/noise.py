"""The randomness of one turn, split over processes and micro-batches so that the split does not change it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Noise", "Shard"]


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` equal parts of a batch."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"index: expected 0 <= index < {self.count}, got {self.index}")

    def split(self, parts: int) -> "list[Shard]":
        """This part's own parts, as parts of the whole."""
        return [Shard(self.index * parts + part, self.count * parts) for part in range(parts)]


class Noise:
    """Draws random numbers for a share of a batch: those that this share has in a draw for the whole batch.

    So two processes with half a batch each, or two micro-batches after each other, see the numbers that one process
    sees with the whole batch, as long as each share makes the same draws in the same order. What is not drawn per image
    goes through `shared`, which gives all shares the same numbers.

    Args:
        generator: on the device where the numbers are wanted; None means PyTorch's global generator of the CPU.
        shard: which share this is.
    """

    def __init__(self, generator: torch.Generator | None = None, shard: Shard | None = None) -> None:
        self.generator = generator
        self.shard = shard or Shard()

    @property
    def device(self) -> torch.device:
        """Where the numbers are drawn."""
        return torch.device("cpu") if self.generator is None else self.generator.device

    def normal(self, n: int, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """N(0, 1), (n, *shape), for this share's n images."""
        drawn = torch.randn(self._whole(n, shape), generator=self.generator, device=self.device, dtype=dtype)
        return self._own(drawn, n)

    def uniform(self, n: int, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """U(0, 1), (n, *shape), for this share's n images."""
        drawn = torch.rand(self._whole(n, shape), generator=self.generator, device=self.device, dtype=dtype)
        return self._own(drawn, n)

    def integers(self, high: int, n: int, *shape: int) -> Tensor:
        """Whole numbers in [0, high), int64 (n, *shape), for this share's n images."""
        drawn = torch.randint(high, self._whole(n, shape), generator=self.generator, device=self.device)
        return self._own(drawn, n)

    def beta(self, alpha: float, beta: float, n: int) -> Tensor:
        """Beta(α, β) in float32, (n,), for this share's n images; α, β > 0."""
        # What CutMix draws, without the detour over gamma variables.
        if alpha == beta == 1.0:
            return self.uniform(n)
        concentration = torch.tensor([alpha, beta]).expand(n * self.shard.count, 2).contiguous()
        gamma = torch._standard_gamma(concentration.to(self.device), generator=self.generator)
        return self._own(gamma[:, 0] / gamma.sum(1), n)

    def shared(self) -> "Noise":
        """The same stream, for draws that all shares have in common, such as one crossover point for the batch."""
        return Noise(self.generator)

    def _whole(self, n: int, shape: Sequence[int]) -> tuple[int, ...]:
        return (n * self.shard.count, *shape)

    def _own(self, drawn: Tensor, n: int) -> Tensor:
        return drawn[self.shard.index * n : (self.shard.index + 1) * n]
