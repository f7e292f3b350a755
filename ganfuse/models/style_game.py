"""The game of StyleGAN and StyleGAN2: style mixing while training, truncation while sampling, moving averages."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.adversarial import AdversarialGame
from ganfuse.engine.game import EMATarget
from ganfuse.engine.moving_average import MovingAverage
from ganfuse.engine.noise import Noise
from ganfuse.models.checks import check_range
from ganfuse.models.style_generator import StyleGenerator, check_truncation

__all__ = ["StyleGame"]


class StyleGame(AdversarialGame):
    """`AdversarialGame` with a `StyleGenerator`.

    Args:
        generator, discriminator: see there.
        style_mixing: probability that a batch is mixed (Karras et al. 2019, arXiv 1812.04948, section 3.1: 0.9): layers
            from one drawn for the whole batch on have w of other latents.
        ema_kimg: half-life of the generator's moving average, in thousands of real images; None: no average.
        ema_ramp_up: the half-life is at most this share of the images seen so far; None: it is constant.
        **options: of `AdversarialGame`.

    Raises:
        ValueError: names the argument.
    """

    generator: StyleGenerator

    def __init__(
        self,
        generator: StyleGenerator,
        discriminator: nn.Module,
        *,
        style_mixing: float = 0.9,
        ema_kimg: float | None = 10.0,
        ema_ramp_up: float | None = None,
        **options: Any,
    ) -> None:
        check_range(0.0, 1.0, style_mixing=style_mixing)
        for name, value in (("ema_kimg", ema_kimg), ("ema_ramp_up", ema_ramp_up)):
            if value is not None:
                check_range(1e-6, float("inf"), **{name: value})
        super().__init__(generator, discriminator, "non-saturating", ema_decay=None, **options)
        self.style_mixing = style_mixing
        self.ema_kimg = ema_kimg
        self.ema_ramp_up = ema_ramp_up
        self._sampling: dict[str, Any] = {}

    @property
    def layers(self) -> int:
        """How many layers take a w at present."""
        return int(self.generator.get_submodule("synthesis").num_ws)  # type: ignore[arg-type]

    def ema_targets(self) -> Sequence[EMATarget]:
        if self.ema_kimg is None:
            return ()
        ramp_up = self.ema_ramp_up
        return (EMATarget("generator", warmup=False, half_life=1000.0 * self.ema_kimg, ramp_up=ramp_up),)

    def draw_images(self, n: int, labels: Tensor | None, noise: Noise) -> Tensor:
        takes = () if labels is None else (labels,)
        latents, mixed = self.draw_latents(n, noise), self.draw_mixing(n, noise)
        images: Tensor = self.generator(latents, *takes, mixed=mixed, **self.generator_options())
        return images

    def draw_mixing(self, n: int, noise: Noise) -> tuple[Tensor, Tensor] | None:
        """Second latents, and the layer from which on they are used: one for the whole batch, in 1..layers."""
        if self.style_mixing == 0.0:
            return None
        latents = self.draw_latents(n, noise)
        shared = noise.shared()
        drawn = 1 + shared.integers(self.layers - 1, 1)
        crossover = torch.where(shared.uniform(1) < self.style_mixing, drawn, self.layers)
        return latents, crossover.to(latents.device)

    def generator_options(self) -> dict[str, Any]:
        return {**super().generator_options(), **self._sampling}

    def synthesize(self, ws: Tensor) -> Tensor:
        """Images of styles (n, `layers`, features), each layer's; with constant noise, so a function of them alone."""
        images: Tensor = self.generator.get_submodule("synthesis")(ws, "const")
        return images

    @contextmanager
    def truncated(self, truncation: float, cutoff: int | None = None) -> Iterator[None]:
        """Inside, `generate` and `truncate` draw styles of the first `cutoff` layers (None: all) towards their mean.

        Raises:
            ValueError: see `check_truncation`.
        """
        check_truncation(truncation, cutoff)
        with self._sampled_with({**self._sampling, "truncation": truncation, "truncation_cutoff": cutoff}):
            yield

    def truncate(self, ws: Tensor) -> Tensor:
        """Styles (n, `layers`, features), truncated inside `truncated`."""
        chosen = self._sampling
        return self.generator.truncate(ws, chosen.get("truncation", 1.0), chosen.get("truncation_cutoff"))

    def after_step(self, player: str, step: int) -> None:
        for module in self.modules():
            if isinstance(module, MovingAverage):
                module.update()

    def sample(
        self,
        n: int,
        *,
        labels: Tensor | Sequence[int] | int | None = None,
        rng: torch.Generator | None = None,
        batch_size: int | None = None,
        truncation: float | None = None,
        truncation_cutoff: int | None = None,
        noise_mode: str = "const",
    ) -> Tensor:
        """See `Game.sample`. Images are cut off at -1 and 1, which the networks do not keep to.

        Args:
            n, labels, rng, batch_size: see `AdversarialGame.sample`.
            truncation: ψ, see `MappingNetwork.truncate`; None: 1, not truncated.
            truncation_cutoff: truncate only the first so many layers; None: all.
            noise_mode: "const": the same noise for all; "random", from PyTorch's global generator; "none".

        Raises:
            ValueError: names the argument.
        """
        if truncation_cutoff is not None and truncation is None:
            raise ValueError("truncation_cutoff: has a meaning only with truncation")
        chosen = {
            "truncation": 1.0 if truncation is None else truncation,
            "truncation_cutoff": truncation_cutoff,
            "noise_mode": noise_mode,
        }
        with self._sampled_with(chosen):
            return super().sample(n, labels=labels, rng=rng, batch_size=batch_size).clamp(-1.0, 1.0)

    @contextmanager
    def _sampled_with(self, options: dict[str, Any]) -> Iterator[None]:
        before, self._sampling = self._sampling, options
        try:
            yield
        finally:
            self._sampling = before
