"""DualGAN: Unsupervised Dual Learning for Image-to-Image Translation (Yi, Zhang, Tan & Gong 2017, arXiv 1704.02510).

A U-Net each way and a Wasserstein critic for each domain. The defaults are those of the authors' later code, which
trains the critics with a gradient penalty and shows them the whole image; the paper's own critics, PatchGANs with
clipped weights, are ``discriminator="patch", wgan_gp=0, clip=0.01, discriminator_steps=2`` (section 3.4: clipping to
0.01–0.1, 2 to 4 steps).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ganfuse.engine import regularizers
from ganfuse.engine.game import Batch, Turn
from ganfuse.engine.losses import wasserstein_discriminator_loss, wasserstein_generator_loss
from ganfuse.engine.noise import Noise
from ganfuse.engine.optimizers import RMSprop
from ganfuse.engine.translation import TranslationGame, judged_together, l1
from ganfuse.models.checks import check_choice, check_length, check_positive, check_range
from ganfuse.models.dualgan_networks import GlobalDiscriminator, UNetGenerator
from ganfuse.models.patch_discriminator import PatchDiscriminator
from ganfuse.models.registry import register_model

__all__ = ["DISCRIMINATORS", "DualGANGame", "dualgan"]

DISCRIMINATORS = ("global", "patch")
RESOLUTIONS = (32, 64, 128, 256, 512)


class DualGANGame(TranslationGame):
    """The networks and losses of DualGAN; the arguments are those of `dualgan`."""

    name = "dualgan"

    def __init__(
        self,
        *,
        resolution: int,
        channels: int,
        width: int,
        dropout: float,
        innermost_norm: bool,
        discriminator: str,
        lambda_a: float,
        lambda_b: float,
        wgan_gp: float,
        clip: float | None,
        discriminator_steps: int,
        crop: int | None,
        generator_lr: float,
        discriminator_lr: float,
        decay: float,
        ema_decay: float | None,
    ) -> None:
        check_positive(channels=channels, width=width, discriminator_steps=discriminator_steps)
        check_choice("discriminator", discriminator, DISCRIMINATORS)
        check_range(0, float("inf"), lambda_a=lambda_a, lambda_b=lambda_b, wgan_gp=wgan_gp)
        check_range(0, float("inf"), generator_lr=generator_lr, discriminator_lr=discriminator_lr)
        check_range(0, 1, dropout=dropout, decay=decay)
        if decay == 1:
            raise ValueError("decay: expected a number below 1, with which RMSProp's mean squares would stay 0; got 1")
        if clip is not None:
            # 0 would leave critics without weights.
            check_length(clip=clip)
        size = resolution if crop is None else crop
        if size not in RESOLUTIONS or isinstance(size, bool):
            key = "resolution" if crop is None else "crop"
            raise ValueError(f"{key}: DualGAN is made for {', '.join(map(str, RESOLUTIONS))} px, got {size!r}")
        self.size_multiple = self.least_size = size
        super().__init__(
            resolution=resolution,
            channels=channels,
            generator_optimizer=RMSprop(generator_lr, alpha=decay),
            discriminator_optimizer=RMSprop(discriminator_lr, alpha=decay),
            crop=crop,
            ema_decay=ema_decay,
        )
        self.lambda_a, self.lambda_b = lambda_a, lambda_b
        self.wgan_gp = wgan_gp
        self.clip = clip
        self.discriminator_steps = discriminator_steps

        def translator() -> UNetGenerator:
            return UNetGenerator(channels, resolution=size, width=width, dropout=dropout, innermost_norm=innermost_norm)

        def critic() -> GlobalDiscriminator | PatchDiscriminator:
            if discriminator == "patch":
                return PatchDiscriminator(channels, width=width)
            return GlobalDiscriminator(channels, resolution=size, width=width)

        self.generator_ab, self.generator_ba = translator(), translator()
        self.discriminator_a, self.discriminator_b = critic(), critic()

    def turns(self) -> Sequence[Turn]:
        penalised = self.wgan_gp > 0
        return [
            Turn("discriminators", self.discriminator_loss, second_order=penalised),
            Turn("generators", self.generator_loss, every=self.discriminator_steps),
        ]

    def after_step(self, player: str, step: int) -> None:
        if player == "discriminators" and self.clip is not None:
            for name in self.discriminators:
                for parameter in self.get_submodule(name).parameters():
                    parameter.clamp_(-self.clip, self.clip)

    def discriminator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """E D(fake) − E D(real) of both domains, and the gradient penalties."""
        a, b = self.domains(batch, noise)
        with torch.no_grad():
            fake_a, fake_b = self.generator_ba(b), self.generator_ab(a)
        terms = {}
        for name, judge, real, fake in (
            ("a", self.discriminator_a, a, fake_a),
            ("b", self.discriminator_b, b, fake_b),
        ):
            terms[name] = wasserstein_discriminator_loss(*judged_together(judge, real, fake))
            if self.wgan_gp:
                mix = noise.uniform(len(real), 1, 1, 1, dtype=real.dtype).to(real.device)
                terms[f"wgan_gp_{name}"] = self.wgan_gp * regularizers.wgan_gp_penalty(judge, real, fake, mix)
        loss = torch.stack(list(terms.values())).sum()
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def generator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """−E D(fake) of both domains, and the cycle losses: eq. 3."""
        a, b = self.domains(batch, noise)
        fake_b, fake_a = self.generator_ab(a), self.generator_ba(b)
        terms = {
            "gan_ab": wasserstein_generator_loss(self.discriminator_b(fake_b)),
            "gan_ba": wasserstein_generator_loss(self.discriminator_a(fake_a)),
            "cycle_a": l1(self.generator_ba(fake_b), a),
            "cycle_b": l1(self.generator_ab(fake_a), b),
        }
        loss = terms["gan_ab"] + terms["gan_ba"]
        loss = loss + self.lambda_a * terms["cycle_a"] + self.lambda_b * terms["cycle_b"]
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}


@register_model(
    summary="two U-Nets, Wasserstein critics with a gradient penalty; unpaired domains",
    paper="DualGAN: Unsupervised Dual Learning for Image-to-Image Translation",
    arxiv="1704.02510",
    resolutions=RESOLUTIONS,
    data_kind="unpaired",
)
def dualgan(
    *,
    resolution: int = 256,
    channels: int = 3,
    width: int = 64,
    dropout: float = 0.0,
    innermost_norm: bool = True,
    discriminator: str = "global",
    lambda_a: float = 1000.0,
    lambda_b: float = 1000.0,
    wgan_gp: float = 10.0,
    clip: float | None = None,
    discriminator_steps: int = 1,
    crop: int | None = None,
    generator_lr: float = 5e-5,
    discriminator_lr: float = 5e-5,
    decay: float = 0.9,
    ema_decay: float | None = None,
) -> DualGANGame:
    """DualGAN with the recipe of its authors' code, which has batches of one image.

    Args:
        resolution: side of the data's images: 32, 64, 128, 256 (the paper's) or 512.
        channels: of both domains' images.
        width: of the first layers (64).
        dropout: in the U-Nets, which the paper has in place of noise; only while they are trained.
        innermost_norm: normalise the innermost map too, as published; it has one pixel, see `UNetGenerator`.
        discriminator: "global" or "patch", the 70×70 PatchGAN of the paper.
        lambda_a, lambda_b: weights of the cycle losses; the paper has 100 to 1000.
        wgan_gp: weight of the critics' gradient penalty; 0: none.
        clip: clamp the critics' weights to ±clip, which is above 0, after each of their steps; None: do not.
        discriminator_steps: steps of the critics per step of the generators, each on a batch of its own.
        crop: side of random crops that are trained on, one of the resolutions; None: whole images.
        generator_lr, discriminator_lr, decay: of RMSProp (5e-5 and 0.9).
        ema_decay: of a moving average of the translators, which the paper does not have; None: none.

    Raises:
        ValueError: values out of range, and a resolution that is not there.
    """
    return DualGANGame(
        resolution=resolution,
        channels=channels,
        width=width,
        dropout=dropout,
        innermost_norm=innermost_norm,
        discriminator=discriminator,
        lambda_a=lambda_a,
        lambda_b=lambda_b,
        wgan_gp=wgan_gp,
        clip=clip,
        discriminator_steps=discriminator_steps,
        crop=crop,
        generator_lr=generator_lr,
        discriminator_lr=discriminator_lr,
        decay=decay,
        ema_decay=ema_decay,
    )
