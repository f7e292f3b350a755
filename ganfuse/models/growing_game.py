"""The game of systems that grow: ProGAN and StyleGAN."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.adversarial import AdversarialGame
from ganfuse.engine.game import Batch, Stage
from ganfuse.engine.noise import Noise
from ganfuse.engine.schedules import Progress
from ganfuse.models.growth import Growth

__all__ = ["GrowingGame"]


class GrowingGame(AdversarialGame):
    """`AdversarialGame` whose networks take a `level` and an `alpha`, as `Growth` says.

    Real images come in full resolution and are averaged down here; samples are enlarged to it.

    Args:
        generator, discriminator: see there.
        growth: the schedule.
        **options: of `AdversarialGame`.
    """

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, *arguments: Any, growth: Growth, **options: Any
    ) -> None:
        super().__init__(generator, discriminator, *arguments, **options)
        self.growth = growth

    def stage(self, progress: Progress) -> Stage | None:
        return self.growth.stage(progress)

    def stages(self) -> Sequence[tuple[float, Stage]]:
        return self.growth.stages()

    def before_step(self, progress: Progress) -> None:
        super().before_step(progress)
        self.growth.advance(progress)

    def discriminator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        return super().discriminator_loss(self._shrunk(batch), noise)

    def penalty_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        return super().penalty_loss(self._shrunk(batch), noise)

    def generator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        return super().generator_loss(self._shrunk(batch), noise)

    def at_present_size(self, images: Tensor, *, real: bool) -> Tensor:
        return self.growth.shrink(images) if real else self.growth.reduce(images)

    def _shrunk(self, batch: Batch) -> Batch:
        return replace(batch, images=self.growth.shrink(batch.images))

    def generator_options(self) -> dict[str, Any]:
        return {**super().generator_options(), "level": self.growth.level, "alpha": self.growth.alpha}

    def discriminator_options(self) -> dict[str, Any]:
        return {**super().discriminator_options(), "level": self.growth.level, "alpha": self.growth.alpha}

    def sample(
        self,
        n: int,
        *,
        labels: Tensor | Sequence[int] | int | None = None,
        rng: torch.Generator | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """See `AdversarialGame.sample`. Images of the present resolution, enlarged to the final one, cut off at ±1."""
        return self.finished(super().sample(n, labels=labels, rng=rng, batch_size=batch_size))

    def finished(self, images: Tensor) -> Tensor:
        """Images (n, C, H, W) of the present resolution as `sample` gives them."""
        return self.growth.enlarge(images).clamp(-1.0, 1.0)
