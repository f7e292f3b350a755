"""The game of BigGAN and its kin: what Brock et al. 2019 (arXiv 1809.11096) add to a generator and a discriminator."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.adversarial import AdversarialGame
from ganfuse.engine.game import EMATarget, Player
from ganfuse.engine.noise import Noise
from ganfuse.engine.orthogonal import OrthogonalGradient
from ganfuse.engine.standing_statistics import collect_standing_statistics
from ganfuse.models.checks import check_range
from ganfuse.models.truncation import check_truncation, truncate_normal, truncate_uniform

__all__ = ["STANDING_BATCHES", "STANDING_BATCH_SIZE", "BigGANGame"]

STANDING_BATCHES = 16
STANDING_BATCH_SIZE = 64
_Buffers = list[tuple[Tensor, Tensor]]


class BigGANGame(AdversarialGame):
    """`AdversarialGame` with orthogonal regularisation, truncated sampling and standing statistics.

    Args:
        generator, discriminator, loss: as in `AdversarialGame`. The discriminator sees real and generated images in one
            batch, so that its spectral norms move once per turn.
        adam_eps: of both optimisers, as in the authors' code.
        ema_start: before this step the average is a copy of the weights.
        orthogonal: β of orthogonal regularisation of the generator's weights (section 3.1), embeddings excepted; see
            `ganfuse.engine.orthogonal`. 0: none.
        **options: see `AdversarialGame`.

    Raises:
        ValueError: names the argument.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: str = "hinge",
        *,
        adam_eps: float = 1e-6,
        ema_start: int = 20_000,
        orthogonal: float = 0.0,
        **options: Any,
    ) -> None:
        check_range(0.0, float("inf"), ema_start=ema_start, orthogonal=orthogonal)
        super().__init__(
            generator, discriminator, loss, adam_eps=adam_eps, concatenate=True, ema_warmup=False, **options
        )
        self.ema_start = ema_start
        self.orthogonal = orthogonal
        self._truncation: float | None = None

    def players(self) -> Sequence[Player]:
        return tuple(replace(player, optimizer=self._optimizer(player)) for player in super().players())

    def _optimizer(self, player: Player) -> Callable[[Any], torch.optim.Optimizer]:
        adam = player.optimizer
        if player.name != "generator" or self.orthogonal == 0.0:
            return adam

        def regularised(params: Any) -> torch.optim.Optimizer:
            optimizer = adam(params)
            optimizer.register_step_pre_hook(OrthogonalGradient(self.generator, self.orthogonal))
            return optimizer

        return regularised

    def ema_targets(self) -> Sequence[EMATarget]:
        return tuple(replace(target, start=self.ema_start) for target in super().ema_targets())

    def draw_latents(self, n: int, noise: Noise) -> Tensor:
        z = super().draw_latents(n, noise)
        if self._truncation is None:
            return z
        truncate = truncate_normal if self.latent == "normal" else truncate_uniform
        return truncate(z, self._truncation)

    @contextmanager
    def truncated(self, threshold: float) -> Iterator[None]:
        """Inside, latents are drawn truncated (see `ganfuse.models.truncation`)."""
        before, self._truncation = self._truncation, check_truncation(threshold)
        try:
            yield
        finally:
            self._truncation = before

    @contextmanager
    def standing_statistics(
        self, num_batches: int = STANDING_BATCHES, batch_size: int = STANDING_BATCH_SIZE
    ) -> Iterator[None]:
        """Inside, the generator's batch normalisation has the mean statistics of sampled batches.

        The batches are drawn as samples are at that moment, truncated inside `truncated`, from a random generator of
        their own that is always seeded alike. See `ganfuse.engine.standing_statistics`.
        """
        if isinstance(num_batches, bool) or not isinstance(num_batches, int) or num_batches < 1:
            raise ValueError(f"standing_statistics: expected a whole number of batches >= 0, got {num_batches!r}")
        before: _Buffers = [(buffer, buffer.clone()) for buffer in self.generator.buffers()]
        noise = Noise(torch.Generator().manual_seed(0))
        try:
            collect_standing_statistics(
                self.generator,
                lambda _: self.generate(self.draw_latents(batch_size, noise), self.draw_labels(batch_size, noise)),
                num_batches,
            )
            yield
        finally:
            for buffer, value in before:
                buffer.copy_(value)

    def sample(
        self,
        n: int,
        *,
        labels: Tensor | Sequence[int] | int | None = None,
        rng: torch.Generator | None = None,
        batch_size: int | None = None,
        truncation: float | None = None,
        standing_statistics: int = 0,
    ) -> Tensor:
        """See `Game.sample`.

        Args:
            n, labels, rng: see there.
            batch_size: bounds the memory; the samples do not depend on it.
            truncation: largest magnitude of a latent, see `ganfuse.models.truncation`; None: not truncated.
            standing_statistics: how many batches of 64 are drawn first for the statistics of batch normalisation; 0:
                those of training, which do not fit truncated latents; BigGAN's authors take 16. The game is afterwards
                as it was before.

        Raises:
            ValueError: names the argument.
        """
        narrower = nullcontext() if truncation is None else self.truncated(truncation)
        with narrower, nullcontext() if standing_statistics == 0 else self.standing_statistics(standing_statistics):
            return super().sample(n, labels=labels, rng=rng, batch_size=batch_size)
